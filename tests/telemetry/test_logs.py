"""Log lines: whatever is logged, and by whom, no secret stands in it."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator

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

Configure = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def configure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Yield what sets up logging, and returns what reads the lines logged since; everything is undone."""
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("apscheduler", "asyncio", "aiohttp"))]
    levels, handlers = [logger.level for logger in loggers], list(root.handlers)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def configured(log_format: str | None = "json", level: str = "debug") -> Callable[[], list[str]]:
        logs.configure(log_format, level, [CANARY, "", "on"])

        def lines() -> list[str]:
            return capsys.readouterr().err.splitlines()

        return lines

    yield configured
    structlog.reset_defaults()
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def fail(secret: str) -> None:
    """Raise with a secret in the text, in the cause's text and in a note."""
    words = f"failed: {secret}"
    cause = ValueError(f"cause {secret}")
    cause.add_note(f"note {secret}")
    raise RuntimeError(words) from cause


def log_everywhere(secret: str) -> int:
    """Log a secret in every way there is; returns how many events that makes."""
    foreign = logging.getLogger("somebody.else")
    log.debug(f"event {secret}")
    log.info("field", error=secret, nested={"a": [secret, (secret,)]}, other=ValueError(secret), raw=secret.encode())
    with structlog.contextvars.bound_contextvars(context=secret):
        log.warning("context")
    foreign.debug("argument %s", secret)
    foreign.warning("argument %(a)s", {"a": secret})
    try:
        fail(secret)
    except RuntimeError as e:
        log.exception("crashed")
        log.error("crashed", exc_info=e)  # another way to say it
        foreign.exception("crashed %s", secret)
    return 8


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_no_line_tells_a_secret(configure: Configure, log_format: str, text: str, secret: str) -> None:
    """A secret is blotted out of events, fields, contexts, arguments and exceptions, ours and other libraries'."""
    lines = configure(log_format)
    count = log_everywhere(text)
    shown = "\n".join(lines())
    assert secret not in shown
    assert count <= shown.count("[secret]")
    assert 3 == shown.count("failed: "), "each exception is told"
    assert "Logging error" not in shown


@pytest.mark.parametrize(("text", "secret"), [pair for pair in SECRETS.items() if CANARY not in pair])
def test_no_reason_tells_a_secret(text: str, secret: str) -> None:
    """What is said of the database's errors, to whomever, tells no address's password and no key."""
    told = explain(ValueError(f"of {text}"))
    assert secret not in told
    assert "[secret]" in told


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_values_of_frames(configure: Configure, log_format: str) -> None:
    """A traceback tells where, not with what values."""
    lines = configure(log_format)
    in_this_frame = "hunter" + "2"
    try:
        fail(f"{len(in_this_frame)} characters")
    except RuntimeError:
        log.exception("crashed")
    shown = "\n".join(lines())
    assert "hunter2" not in shown
    assert "failed: 7 characters" in shown


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_record_that_cannot_be_formatted_is_silent(configure: Configure, log_format: str) -> None:
    """A library's wrong format string does not print its arguments as they are."""
    lines = configure(log_format)
    logging.getLogger("somebody.else").warning("%d", CANARY)
    assert [] == lines()


def test_json_is_one_event_a_line(configure: Configure) -> None:
    """Whatever is logged, exceptions too, each line is one object that says what, when and how bad."""
    lines = configure("json")
    count = log_everywhere(f"two\nlines {CANARY}")
    events = [json.loads(line) for line in lines()]
    assert count == len(events)
    assert all({"event", "level", "timestamp", "logger"} <= event.keys() for event in events)


def test_short_headers_are_no_secrets(configure: Configure) -> None:
    """A gateway's header `on` does not blot every word it stands in."""
    lines = configure("json")
    log.info("connection.done", reason="gone")
    assert {"event": "connection.done", "reason": "gone"}.items() <= json.loads(lines()[0]).items()


def test_what_is_no_secret_stays(configure: Configure) -> None:
    """Ids, addresses and numbers are logged as they are."""
    lines = configure("json")
    fields = {"job": "ftjob-abc", "url": "http://127.0.0.1:8787/metrics", "new": 3, "ok": True, "none": None, "x": 1.5}
    log.info("poll.changed", **fields)
    assert fields.items() <= json.loads(lines()[0]).items()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_priorities_are_the_journals(configure: Configure, monkeypatch: pytest.MonkeyPatch, log_format: str) -> None:
    """Where the journal reads, and only there, a line begins with its priority: not where something redirected it."""
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
    logging.getLogger("somebody.else").error("d")
    log.critical("e")
    assert ["<7>", "<6>", "<4>", "<3>", "<2>"] == [line[:3] for line in lines()]


def test_the_level_holds_for_all(configure: Configure) -> None:
    """Below the level nobody is heard; libraries that chat are heard from warning on, even at debug."""
    lines = configure("json", "warning")
    log.info("quiet")
    logging.getLogger("somebody.else").info("quiet")
    assert [] == lines()
    lines = configure("json", "debug")
    logging.getLogger("asyncio").debug("quiet")
    logging.getLogger("somebody.else").debug("heard")
    assert ["heard"] == [json.loads(line)["event"] for line in lines()]


def test_lines_are_json_where_nobody_watches(configure: Configure) -> None:
    """Without a terminal and a choice, lines are for machines."""
    lines = configure(None)
    log.info("event")
    assert "event" == json.loads(lines()[0])["event"]
