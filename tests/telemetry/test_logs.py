"""Log lines: no line contains a secret, whatever is logged and whichever library logs it."""

import json
import logging
import os
import sys
from collections.abc import Callable

import pytest
import structlog

from checkpointd.postgres.errors import explain
from checkpointd.telemetry import logs
from checkpointd.telemetry.logs import log

CANARY = "canary-5f0e9d8c7b6a"
SECRETS = {
    CANARY: CANARY,
    "sk-proj-abcDEF0123456789_-xyz": "abcDEF",
    "Bearer abc.def": "abc.def",
    "{'Authorization': 'bearer  abc.def'}": "abc.def",
    "postgresql://u:hunter2@h:5432/d": "hunter2",
    "postgresql://u:hun@ter/2@h/d": "ter/2",
    "postgresql://:hunter2@h/d": "hunter2",
    "postgresql:///d?password=hunter2&x=y": "hunter2",
    "host=h Password='hunter2' user=u": "hunter2",
}
"""Texts with a secret, and the part of each that must not be logged."""

FORMATS = pytest.mark.parametrize("log_format", ["json", "console"])

Configure = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def configure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that sets up logging. It returns one that returns the lines logged since its last call."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def configured(log_format: str | None = "json", level: str = "debug") -> Callable[[], list[str]]:
        logs.configure(log_format, level, [CANARY, "", "on"])

        def lines() -> list[str]:
            return capsys.readouterr().err.splitlines()

        return lines

    return configured


def fail(secret: str) -> None:
    """Raise an error with a secret in its text, in the text of its cause, and in a note."""
    words = f"failed: {secret}"
    cause = ValueError(f"cause {secret}")
    cause.add_note(f"note {secret}")
    raise RuntimeError(words) from cause


def log_everywhere(secret: str) -> int:
    """Log a secret in each part of an event and by each kind of logger. Returns the number of events."""
    library = logging.getLogger("some.library")
    log.debug(f"event {secret}")
    log.info("field", error=secret, nested={"a": [secret, (secret,)]}, other=ValueError(secret), raw=secret.encode())
    with structlog.contextvars.bound_contextvars(context=secret):
        log.warning("context")
    library.debug("argument %s", secret)
    library.warning("argument %(a)s", {"a": secret})
    try:
        fail(secret)
    except RuntimeError as e:
        log.exception("crashed")
        log.error("crashed", exc_info=e)  # the other way to log an exception
        library.exception("crashed %s", secret)
    return 8


@FORMATS
@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_no_line_contains_a_secret(configure: Configure, log_format: str, text: str, secret: str) -> None:
    """Secrets are removed from events, fields, contexts, arguments and exceptions, also from those of libraries."""
    lines = configure(log_format)
    count = log_everywhere(text)
    shown = "\n".join(lines())
    assert secret not in shown
    assert count <= shown.count("[secret]")
    assert 3 == shown.count("failed: "), "each exception is logged"
    assert "Logging error" not in shown


@pytest.mark.parametrize(("text", "secret"), [pair for pair in SECRETS.items() if CANARY not in pair])
def test_no_database_error_contains_a_secret(text: str, secret: str) -> None:
    """The explanation of a database error contains no password of a URL and no key."""
    explanation = explain(ValueError(f"of {text}"))
    assert secret not in explanation
    assert "[secret]" in explanation


@FORMATS
def test_tracebacks_show_no_local_variables(configure: Configure, log_format: str) -> None:
    """A traceback shows the places in the code, and no values of variables."""
    lines = configure(log_format)
    in_this_frame = "hunter" + "2"
    try:
        fail(f"{len(in_this_frame)} characters")
    except RuntimeError:
        log.exception("crashed")
    shown = "\n".join(lines())
    assert "hunter2" not in shown
    assert "failed: 7 characters" in shown


@FORMATS
def test_a_record_that_cannot_be_formatted_is_not_shown(configure: Configure, log_format: str) -> None:
    """If the format string of a library does not fit its arguments, the arguments are not printed."""
    lines = configure(log_format)
    logging.getLogger("some.library").warning("%d", CANARY)
    assert [] == lines()


def test_json_has_one_event_per_line(configure: Configure) -> None:
    """Each line, also of an exception, is one JSON object with the event, its level, its time and its logger."""
    lines = configure("json")
    count = log_everywhere(f"two\nlines {CANARY}")
    events = [json.loads(line) for line in lines()]
    assert count == len(events)
    assert all({"event", "level", "timestamp", "logger"} <= event.keys() for event in events)


def test_a_short_header_is_not_a_secret(configure: Configure) -> None:
    """The value `on` of a header is not removed from other words, such as `connection`."""
    lines = configure("json")
    log.info("connection.done", reason="gone")
    assert {"event": "connection.done", "reason": "gone"}.items() <= json.loads(lines()[0]).items()


def test_other_values_are_unchanged(configure: Configure) -> None:
    """Ids, addresses and numbers are logged unchanged."""
    lines = configure("json")
    fields = {"job": "ftjob-abc", "url": "http://127.0.0.1:8787/metrics", "new": 3, "ok": True, "none": None, "x": 1.5}
    log.info("poll.changed", **fields)
    assert fields.items() <= json.loads(lines()[0]).items()


@FORMATS
def test_lines_for_the_journal_have_a_priority(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    """A line starts with its priority if standard error is the journal, and not if it was redirected."""
    ours = os.fstat(1)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 1)
    for redirected in ("", "8:1"):
        monkeypatch.setenv("JOURNAL_STREAM", redirected)
        lines = configure(log_format)
        log.warning("here")
        assert not lines()[0].startswith("<")
    monkeypatch.setenv("JOURNAL_STREAM", f"{ours.st_dev}:{ours.st_ino}")
    lines = configure(log_format)
    log.debug("a")
    log.info("b")
    log.warning("c")
    logging.getLogger("some.library").error("d")
    log.critical("e")
    assert ["<7>", "<6>", "<4>", "<3>", "<2>"] == [line[:3] for line in lines()]


def test_the_level_applies_to_all_loggers(configure: Configure) -> None:
    """Events below the level are not logged. Verbose libraries log only warnings and errors, even at level debug."""
    lines = configure("json", "warning")
    log.info("below")
    logging.getLogger("some.library").info("below")
    assert [] == lines()
    lines = configure("json", "debug")
    logging.getLogger("asyncio").debug("below")
    logging.getLogger("some.library").debug("logged")
    assert ["logged"] == [json.loads(line)["event"] for line in lines()]


def test_the_default_without_a_terminal_is_json(configure: Configure) -> None:
    """Without a terminal and without a configured format, lines are JSON."""
    lines = configure(None)
    log.info("event")
    assert "event" == json.loads(lines()[0])["event"]
