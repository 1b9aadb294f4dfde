"""Secrets are found in whatever encoding they stand, and nothing else is taken for one."""

import json

import pytest

from checkpointd.redaction import Secrets, secrets_of
from echoes import echoes

KEYS = ["canary.0123456789+/key==", "sk-proj-abcDEF0123456789_-xyz", "??>>~~canary", "abcdef", "hunter2"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("writing", echoes(""))
def test_every_writing_is_found(key: str, writing: str) -> None:
    """A secret is found in an item's bytes, in a text and in a log line, however it is written."""
    written = echoes(key)[writing]
    secrets = Secrets(["something-else", key])
    assert secrets.stand_in(b'{"model": "ft:' + written.encode() + b'"}')
    for text in (f"it said {written}", json.loads(f'"it said {written}"')):
        for left in (secrets.blot(text), secrets.blot_beginnings(text)):
            assert "[secret]" in left
            assert not {text_ for text_ in echoes(key).values() if text_ in left}


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize("writing", echoes(""))
def test_a_writing_that_is_cut_off_is_found(key: str, writing: str) -> None:
    """Of an error's words that were cut within the secret nothing is left that tells more than a beginning of it."""
    written = json.loads(f'"{echoes(key)[writing]}"')
    for end in range(len(written) * 3 // 4, len(written)):
        left = Secrets([key]).blot_beginnings(f"it said {written[:end]}")
        assert "[secret]" in left


def test_nothing_else_is_found() -> None:
    """Pages of checkpoints, whatever they escape, hold no secret; nor is a word of one or five letters a secret."""
    page = json.dumps(
        [{"id": f"ftckpt_{n}", "name": f"ft:gpt-4o:%41{n}:/\\ \u00fc", "loss": n / 7} for n in range(3000)]
    )
    secrets = Secrets([*KEYS, "on", "1", "", "gpt-4"])
    assert not secrets.stand_in(page.encode())
    assert "50 % of gpt-4o on 1" == secrets.blot("50 % of gpt-4o on 1")
    assert "no key here" == Secrets([]).blot_beginnings("no key here")
    assert not Secrets([]).stand_in(b"no key here")


def test_which_headers_are_secret() -> None:
    """Keys are, those of gateways, too; the organization and the project are not: they stand in every job record."""
    headers = {
        "Authorization": "Bearer key-1", "api-key": "key-2", "X-Gateway-Token": "key-3", "x-p": "abcdef0123456789abcd",
        "OpenAI-Organization": "org-AbCdEf0123456789AbCdEf", "OpenAI-Project": "proj_AbCdEf0123456789AbCdEf",
        "x-team": "research", "x-auth-scheme": " ",
    }  # fmt: skip
    assert ["key-1", "key-2", "key-3", "abcdef0123456789abcd"] == secrets_of(headers)
