"""Secrets are found in every supported encoding, and nothing else is taken for a secret."""

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
@pytest.mark.parametrize("encoding", echoes(""))
def test_every_encoding_is_found(key: str, encoding: str) -> None:
    """A secret is found in the bytes of an item, and removed from texts, in every encoding."""
    encoded = echoes(key)[encoding]
    secrets = Secrets(["something-else", key])
    assert secrets.occur_in(b'{"model": "ft:' + encoded.encode() + b'"}')
    for text in (f"it said {encoded}", json.loads(f'"it said {encoded}"')):
        for left in (secrets.redact(text), secrets.redact_truncated(text)):
            assert "[secret]" in left
            assert not [echo for echo in echoes(key).values() if echo in left]


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize("encoding", echoes(""))
def test_an_encoded_secret_that_is_cut_off_is_found(key: str, encoding: str) -> None:
    """A secret in any encoding is removed from a text that was cut off in its last quarter."""
    encoded = json.loads(f'"{echoes(key)[encoding]}"')
    for end in range(len(encoded) * 3 // 4, len(encoded), len(encoded) // 64 + 1):
        left = Secrets([key]).redact_truncated(f"it said {encoded[:end]}")
        assert "[secret]" in left


def test_nothing_else_is_found() -> None:
    """No secret is found in pages of checkpoints with escapes and hashes; values of one to five letters are ignored."""
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


def test_secret_headers() -> None:
    """Keys and cookies are secret. Organization and project are not, as every job record has them; nor are numbers."""
    headers = {
        "Authorization": "Bearer key-1", "api-key": "key-2", "X-Gateway-Token": "key-3", "x-p": "abcdef0123456789abcd",
        "OpenAI-Organization": "org-AbCdEf0123456789AbCdEf", "OpenAI-Project": "proj_AbCdEf0123456789AbCdEf",
        "x-team": "research", "x-auth-scheme": " ", "Cookie": "session=key-4==; theme=key-5", "X-Author": "mistral",
        "X-Max-Tokens": "100000", "X-Token-Limit": "100000",
    }  # fmt: skip
    expected = ["key-1", "key-2", "key-3", "abcdef0123456789abcd", "key-4==", "key-5"]
    assert expected == secrets_of(headers)


def test_secret_parameters() -> None:
    """Parameters with the name of a secret are secret, also beside a header of the same name."""
    query = {
        "code": "key-1", "Sig": "key-2", "signature": "key-3", "Subscription-Key": "key-4", "access_token": "key-5",
        "client-secret": "key-6", "PASSWORD": "key-7", "pwd": "key-8", "api-key": "key-9",
        "api-version": "2024-10-21", "design": "modern", "country-code": "germany", "deployment": "gpt-4o-mini",
    }  # fmt: skip
    assert [f"key-{number}" for number in range(1, 11)] == secrets_of(query, {"api-key": "key-10"})


def test_secret_that_contains_escapes() -> None:
    """A password that contains escapes is found as it is, and escaped once more."""
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
def test_likely_secrets_are_removed(text: str, left: str | None) -> None:
    """Keys that are not known are removed by how they look; ids and addresses stay."""
    assert (left or text) == redact_likely(text)
    assert (left or text) == Secrets([]).redact(text)


def test_values_that_look_like_keys() -> None:
    """Keys are recognized where a name is expected, and names are not taken for keys."""
    assert looks_like_key("sk-short")
    assert looks_like_key("0123456789abcdef0123456789abcdef")
    assert not looks_like_key("OPENAI_API_KEY_OF_RESEARCH_2")


def _seconds(work: Callable[[], object], tries: int = 1) -> float:
    """Return the processor time of the fastest try, in seconds."""
    times = []
    for _ in range(tries):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize(
    "unit",
    [
        b"\\", b"\\u0041", b"\\U00000041", b"\\101", b"\\41", b"%41", b"%2525", b"&#65;", b"&amp;#65;", b"&#0", b"A",
        b"41", b"A" * 20 + b" ", b"UVVGQ", b"://a:",
    ],
)  # fmt: skip
def test_time_is_bounded(unit: bytes) -> None:
    """The search takes under 3 s for a mebibyte of hostile bytes, and under 1 s for the text of an error."""
    secrets = Secrets([KEYS[1]])
    hostile = unit * (1024 * 1024 // len(unit))
    assert 3 > _seconds(lambda: secrets.occur_in(hostile))
    assert 1 > _seconds(lambda: secrets.redact_truncated(hostile[:1000].decode()))


def test_ordinary_pages_are_cheap() -> None:
    """The search for a key in a page of checkpoints takes less than half as long as reading them."""
    items = [json.dumps(checkpoint(n, valid_loss=n / 7)).encode() for n in range(1, 101)]
    page, secrets = b"\n".join(items), Secrets(["sk-proj-" + "aB3-" * 39])
    reading = _seconds(lambda: [read_checkpoint(item, JOB) for item in items], tries=50)
    assert reading / 2 > _seconds(lambda: secrets.occur_in(page), tries=50)
