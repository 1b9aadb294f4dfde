"""What a command prints that issues a key: a key alone, and the JSON of the providers' programs."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from checkpointd.settings.issued_key import read_key

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()
KEY = "eyJ0eXAiOiJKV1Qi.eyJhdWQiOiI.c2lnbmF0dXJl-_A"


def _in_an_hour(zone: str = "") -> str:
    return datetime.fromtimestamp(NOW + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%S") + zone


OUTPUTS: dict[str, tuple[Any, float | None]] = {
    "az": (
        {
            "accessToken": KEY,
            "expiresOn": "2099-01-01 00:00:00.000000",
            "expires_on": NOW + 3600,
            "tokenType": "Bearer",
        },
        3600,
    ),
    "az --query accessToken": (KEY, None),
    "azd": ({"token": KEY, "expiresOn": _in_an_hour("Z")}, 3600),
    "gcloud config config-helper": (
        {"credential": {"access_token": KEY, "id_token": "x", "token_expiry": _in_an_hour("Z")}, "sentinels": {}},
        3600,
    ),
    "a credential plugin of Kubernetes": (
        {"kind": "ExecCredential", "status": {"token": KEY, "expirationTimestamp": _in_an_hour("+00:00")}},
        3600,
    ),
    "OAuth": ({"access_token": KEY, "expires_in": 3599, "token_type": "Bearer"}, 3599),
    "Azure's metadata": ({"access_token": KEY, "expires_in": "86399", "expires_on": str(int(NOW + 86399))}, 86399),
    "milliseconds": ({"token": KEY, "expires_at": (NOW + 60) * 1000}, 60),
    "nanoseconds": ({"access_token": KEY, "expiry": _in_an_hour(".123456789+00:00")}, 3600.123456),
    "no expiry": ({"token": KEY, "expires_in": None}, None),
    "a strange expiry": ({"token": KEY, "expires_on": "soon", "expires_in": [1]}, None),
    "an endless expiry": ({"token": KEY, "expires_in": float("inf")}, None),
    "an expired key": ({"token": KEY, "expires_on": NOW - 5}, -5),
}


@pytest.mark.parametrize("program", OUTPUTS)
def test_json(program: str) -> None:
    """The key and its remaining time are read from the JSON that these programs print."""
    printed, seconds = OUTPUTS[program]
    found = read_key(json.dumps(printed, indent=2).encode() + b"\n", NOW)
    assert (KEY, seconds and pytest.approx(seconds, abs=1e-3)) == (found.key, found.seconds)


def test_times_without_a_zone() -> None:
    """A time without a zone is one of this machine, as older versions of `az` print it."""
    expires = datetime.fromtimestamp(NOW + 60).isoformat(" ")  # noqa: DTZ006  # as `az` does it
    assert 60 == read_key(json.dumps({"accessToken": KEY, "expiresOn": expires}).encode(), NOW).seconds


def test_a_key_alone() -> None:
    """A key alone, with blanks around it, has no known expiry."""
    assert (KEY, None) == read_key(f"\ufeff {KEY}\r\n".encode(), NOW)[:2]


def test_everything_that_looks_like_a_key_is_secret() -> None:
    """Other tokens in the output are secrets, too, but its plain words are not."""
    refresh = "0.AXoAb1c2d3e4f5g6h7i8j9k0l1m2n3"
    printed = {"access_token": KEY, "refresh_token": refresh, "scope": "https://ai.azure.com/.default"}
    assert [KEY, refresh] == read_key(json.dumps(printed).encode(), NOW).secrets


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("", "it printed nothing"),
        (" \n", "it printed nothing"),
        ("please log in", "it printed neither a key, in one word of printable ASCII, nor a JSON object"),
        (f"{KEY}\n{KEY}", "it printed neither a key, in one word of printable ASCII, nor a JSON object"),
        (f"Bearer {KEY}", "the printed key begins with Bearer or Authorization: write the key alone"),
        (f"'{KEY}'", "the printed key is in quotes: remove them"),
        ("{", "it printed JSON that cannot be read"),
        ('{"a":' * 5000, "it printed JSON that cannot be read"),
        ("{}", "it printed JSON without a key: access_token, accessToken or token is required"),
        ('{"token": 5}', "it printed JSON without a key: access_token, accessToken or token is required"),
        ('{"token": ""}', "it printed neither a key, in one word of printable ASCII, nor a JSON object"),
        ("null", "it printed a word of fewer than 8 characters, which is no key"),
        ("true", "it printed a word of fewer than 8 characters, which is no key"),
        ("Error:", "it printed a word of fewer than 8 characters, which is no key"),
        ('"short"', "it printed a word of fewer than 8 characters, which is no key"),
        ('{"token": "null"}', "it printed a word of fewer than 8 characters, which is no key"),
        ("[]", "it printed JSON without a key"),
        (f'["{KEY}"]', "it printed JSON without a key"),
        ('{"status": [], "credential": null}', "it printed JSON without a key"),
    ],
)
def test_no_key(printed: str, expected: str) -> None:
    """An output without a key is refused with the reason, which does not quote it."""
    with pytest.raises(ValueError, match=f"^{expected}"):
        read_key(printed.encode(), NOW)


def test_bytes() -> None:
    """Bytes that are no text are refused."""
    with pytest.raises(ValueError, match=r"^it printed bytes that are not UTF-8$"):
        read_key(b"\xff\xfe", NOW)
