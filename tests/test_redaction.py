"""Secrets are found in whatever encoding they stand, and nothing else is taken for one."""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

import pytest

from checkpointd.domain.checkpoint import read_checkpoint
from checkpointd.redaction import Secrets, looks_like_key, redact_likely, secrets_of
from support.echoes import echoes
from support.provider import JOB, checkpoint

KEYS = ["canary.0123456789+/key==", "sk-proj-abcDEF0123456789_-xyz", "??>>~~canary", "abcdef", "hunter2"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("writing", echoes(""))
def test_every_writing_is_found(key: str, writing: str) -> None:
    """A secret is found in an item's bytes, in a text and in a log line, however it is written."""
    written = echoes(key)[writing]
    secrets = Secrets(["something-else", key])
    assert secrets.occur_in(b'{"model": "ft:' + written.encode() + b'"}')
    for text in (f"it said {written}", json.loads(f'"it said {written}"')):
        for left in (secrets.redact(text), secrets.redact_truncated(text)):
            assert "[secret]" in left
            assert not {text_ for text_ in echoes(key).values() if text_ in left}


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize("writing", echoes(""))
def test_a_writing_that_is_cut_off_is_found(key: str, writing: str) -> None:
    """Of an error's words that were cut within the secret nothing is left that tells more than a beginning of it."""
    written = json.loads(f'"{echoes(key)[writing]}"')
    for end in range(len(written) * 3 // 4, len(written), len(written) // 64 + 1):
        left = Secrets([key]).redact_truncated(f"it said {written[:end]}")
        assert "[secret]" in left


def test_nothing_else_is_found() -> None:
    """Pages of checkpoints, whatever they escape, hold no secret; nor is a word of one or five letters a secret."""
    page = json.dumps(
        [
            {
                "id": f"ftckpt_{n}", "name": f"ft:gpt-4o:%41{n}:/\\ \u00fc &amp; &#65;", "loss": n / 7,
                "hash": sha256(b"%d" % n).hexdigest(), "hash64": b64encode(sha256(b"%d" % n).digest()).decode(),
            }
            for n in range(3000)
        ]
    )  # fmt: skip
    secrets = Secrets([*KEYS, "on", "1", "", "gpt-4"])
    assert not secrets.occur_in(page.encode())
    assert "50 % of gpt-4o on 1" == secrets.redact("50 % of gpt-4o on 1")
    assert "no key here" == Secrets([]).redact_truncated("no key here")
    assert not Secrets([]).occur_in(b"no key here")


def test_which_headers_are_secret() -> None:
    """Keys and cookies are; organization and project are not, for they stand in every job record; nor are numbers."""
    headers = {
        "Authorization": "Bearer key-1", "api-key": "key-2", "X-Gateway-Token": "key-3", "x-p": "abcdef0123456789abcd",
        "OpenAI-Organization": "org-AbCdEf0123456789AbCdEf", "OpenAI-Project": "proj_AbCdEf0123456789AbCdEf",
        "x-team": "research", "x-auth-scheme": " ", "Cookie": "session=key-4==; theme=key-5", "X-Author": "mistral",
        "X-Max-Tokens": "100000", "X-Token-Limit": "100000",
    }  # fmt: skip
    expected = ["key-1", "key-2", "key-3", "abcdef0123456789abcd", "key-4==", "key-5"]
    assert expected == secrets_of(headers)


def test_which_parameters_are_secret() -> None:
    """Of what a query adds, too, keys are secret, and what is named so; one of a name that a header has, beside it."""
    query = {
        "code": "key-1", "Sig": "key-2", "signature": "key-3", "Subscription-Key": "key-4", "access_token": "key-5",
        "client-secret": "key-6", "PASSWORD": "key-7", "pwd": "key-8", "api-key": "key-9",
        "api-version": "2024-10-21", "design": "modern", "country-code": "germany", "deployment": "gpt-4o-mini",
    }  # fmt: skip
    assert [f"key-{number}" for number in range(1, 11)] == secrets_of(query, {"api-key": "key-10"})


def test_a_secret_with_escapes_of_its_own() -> None:
    """A password that reads like something escaped is found escaped once more."""
    secrets = Secrets(["p%41ss&amp;word"])
    assert secrets.occur_in(b"p%41ss&amp;word")
    assert secrets.occur_in(b"p%2541ss%26amp;word")
    assert secrets.occur_in(b"\\u0070%41ss&amp;word")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key sk-proj-abc123 is wrong", "key [secret] is wrong"),
        ("key abc***-xyz is wrong", "key [secret] is wrong"),
        ("key a**b***c-d is wrong", "key [secret] is wrong"),
        ("got Bearer abc.def there", "got [secret] there"),
        ("ftjob-AbCdEf0123456789AbCdEf is no key, nor are ** and https://host/path@1", None),
    ],
)
def test_what_looks_like_a_secret(text: str, left: str | None) -> None:
    """What is said of keys that nobody told us is blotted; ids and addresses stay."""
    assert (left or text) == redact_likely(text)
    assert (left or text) == Secrets([]).redact(text)


def test_which_values_are_keys() -> None:
    """Where a name is wanted, keys are recognized, and names are not taken for any."""
    assert looks_like_key("sk-short")
    assert looks_like_key("0123456789abcdef0123456789abcdef")
    assert not looks_like_key("OPENAI_API_KEY_OF_RESEARCH_2")


def _seconds(work: Callable[[], object], tries: int = 1) -> float:
    """Return the processor time of the fastest try."""
    times = []
    for _ in range(tries):
        since = time.process_time()
        work()
        times.append(time.process_time() - since)
    return min(times)


@pytest.mark.parametrize(
    "unit",
    [
        b"\\", b"\\u0041", b"\\U00000041", b"\\101", b"\\41", b"%41", b"%2525", b"&#65;", b"&amp;#65;", b"&#0", b"A",
        b"41", b"A" * 20 + b" ", b"UVVGQ", b"://a:",
    ],
)  # fmt: skip
def test_time_is_bounded(unit: bytes) -> None:
    """A mebibyte, whatever stands in it, takes seconds at most, and the words of an error not even one."""
    secrets = Secrets([KEYS[1]])
    hostile = unit * (1024 * 1024 // len(unit))
    assert 3 > _seconds(lambda: secrets.occur_in(hostile))
    assert 1 > _seconds(lambda: secrets.redact_truncated(hostile[:1000].decode()))


def test_ordinary_pages_are_cheap() -> None:
    """To look for a key in a page of checkpoints takes less than half as long as to read them."""
    items = [json.dumps(checkpoint(n, valid_loss=n / 7)).encode() for n in range(1, 101)]
    page, secrets = b"\n".join(items), Secrets(["sk-proj-" + "aB3-" * 39])
    reading = _seconds(lambda: [read_checkpoint(item, JOB) for item in items], tries=50)
    assert reading / 2 > _seconds(lambda: secrets.occur_in(page), tries=50)
