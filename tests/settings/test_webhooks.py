"""The settings of webhooks: what is accepted, and the messages about wrong ones, which contain no secret."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpointd.domain.feed import pattern_to_regex
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings
from support.receiver import SECRET

TABLE = "[[webhooks]]\nname = 'a'\nurl = 'https://hooks.example'\nsecret = 'HOOK'\n"
CANARY = "canary-0123456789abcdef"


def test_defaults(load: Callable[..., Settings]) -> None:
    """A webhook has the format standard, gets findings of all jobs, and begins now."""
    (webhook,) = load(TABLE).webhooks
    assert ("standard", ("fired", "resolved"), ("*",), ("*",), None) == (
        webhook.format, webhook.events, webhook.sources, webhook.jobs, webhook.start
    )  # fmt: skip
    assert 7 == load(TABLE + "from = 7").webhooks[0].start


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (TABLE + "event = []", "webhook a: event: no such setting; did you mean events?"),
        (TABLE + "form = 1", "webhook a: form: no such setting; did you mean format?"),
        (TABLE + "events = ['overfit']", "webhook a: events.0: each must be one of new, changed, "),
        (TABLE + "events = []", "webhook a: events: "),
        (TABLE + "from = 'then'", "webhook a: from."),
        (TABLE + f"from = {2**63}", "webhook a: from."),
        (TABLE + "jobs = ['']", "webhook a: jobs.0: each pattern must have 1 to 128 printable characters"),
        (TABLE.replace("secret = 'HOOK'\n", ""), "webhook a: secret is required for the format standard"),
        (
            TABLE.replace("'https://hooks.example'", "'http://hooks.example'"),
            "webhook a: url: must begin with https://",
        ),
        (TABLE.replace("https://", f"https://u:{CANARY}@"), "webhook a: url: must not contain a user or a password: "),
        (TABLE.replace("HOOK", f"whsec_{CANARY}-{CANARY}"), "webhook a: secret: must be the name of a credential"),
        (TABLE + TABLE, "webhooks: two webhooks have the name a: rename one of them"),
        ("webhooks = 1", "webhooks: write each webhook as a table of its own, under a line [[webhooks]]"),
        ("webhooks = [1]", "webhooks: write each webhook as a table of its own, under a line [[webhooks]]"),
        ("[[webhooks]]\nurl = 'https://h'", "webhook 1: name: required, but missing"),
    ],
)
def test_wrong_ones(load_error: Callable[..., str], toml: str, expected: str) -> None:
    """The message names the webhook, the setting and the remedy, and no secret."""
    message = load_error(toml)
    assert message.startswith(expected), message
    assert CANARY not in message


@pytest.mark.parametrize(
    ("secret", "is_right"),
    [
        (SECRET, True),
        ("whsec_" + "A" * 43, True),  # without its padding
        (SECRET.removeprefix("whsec_"), False),
        ("whsec_c2hvcnQ=", False),
        ("whsec_" + "A" * 100, False),
        ("whsec_" + "!" * 32, False),
    ],
)
def test_secrets(
    load: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, secret: str, *, is_right: bool
) -> None:
    """A secret is whsec_ and the base64 of 24 to 64 bytes. The error does not show it."""
    monkeypatch.setenv("HOOK", secret)
    (webhook,) = load(TABLE).webhooks
    if is_right:
        assert webhook.read_key()
        assert [secret, secret.removeprefix("whsec_")] == webhook.secrets()
    else:
        with pytest.raises(SettingsError) as raised:
            webhook.read_key()
        assert str(raised.value).startswith(
            "the secret of webhook a: HOOK does not contain a secret of the form whsec_"
        )
        assert secret not in str(raised.value)


def test_a_secret_url(load: Callable[..., Settings], tmp_path: Path) -> None:
    """A URL is read from its file. It is checked then, and its path is a secret."""
    (tmp_path / "url").write_text(f"https://hooks.slack.com/services/{CANARY}?sig=1\n")
    toml = f"[[webhooks]]\nname = 'a'\nformat = 'slack'\nurl = {{ credential = '{tmp_path}/url' }}"
    (webhook,) = load(toml).webhooks
    assert f"https://hooks.slack.com/services/{CANARY}?sig=1" == webhook.read_url()
    assert [f"services/{CANARY}?sig=1"] == webhook.secrets()
    (tmp_path / "url").write_text(f"http://hooks.slack.com/services/{CANARY}")
    with pytest.raises(SettingsError) as raised:
        webhook.read_url()
    assert re.match(r"the url of webhook a: the value of \S+ must begin with https://", str(raised.value))
    assert CANARY not in str(raised.value)


def test_a_secret_url_in_the_settings(load: Callable[..., Settings]) -> None:
    """The path of a URL that is not in a credential is a secret too, unless it is a word, which the log may contain."""
    for path, secrets in ((f"services/T0/{CANARY}", [f"services/T0/{CANARY}"]), ("webhook", []), ("", [])):
        toml = f"[[webhooks]]\nname = 'a'\nformat = 'slack'\nurl = 'https://hooks.slack.com/{path}'"
        assert secrets == load(toml).webhooks[0].secrets()


def test_patterns() -> None:
    """In a pattern * is any text and ? any character; every other character stands for itself."""
    for pattern, text, matches in (
        ("ftjob-*", "ftjob-abc", True),
        ("ftjob-*", "xftjob-abc", False),
        ("a.c", "abc", False),
        ("a?c", "abc", True),
        ("[a]|(b)\\^$", "[a]|(b)\\^$", True),
        ("*", "", True),
    ):
        assert matches == (re.match(pattern_to_regex(pattern), text) is not None), (pattern, text)
