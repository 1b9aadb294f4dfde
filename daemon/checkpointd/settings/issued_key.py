"""Read what the command of a source prints: a key alone, or JSON with a key and its expiry. Pure.

JSON is what the programs of the providers print: Azure's `az` and `azd`, Google's `gcloud config config-helper`, a
response of OAuth or of a metadata service, and the credential plugins of Kubernetes.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from checkpointd.redaction import looks_like_key
from checkpointd.settings.credentials import flaw

_KEY_NAMES: Final = ("access_token", "accessToken", "token")
"""The names of a key, of which the first one that is present counts, as for the other names."""

_TIMES: Final = (
    "expires_on", "expires_at", "expiresAt", "expiration_time", "expirationTimestamp", "expiration", "token_expiry",
    "expiry", "expiresOn",
)  # fmt: skip
"""The names of a time of expiry. `az` prints two: `expires_on` is exact, and `expiresOn` has no time zone."""

_DURATIONS: Final = ("expires_in", "expiresIn")
"""The names of the seconds until a key expires."""

_PARTS: Final = ("status", "credential")
"""The objects within the printed one that can have a key: those of a plugin of Kubernetes, and of `gcloud`."""

_MILLISECONDS_FROM: Final = 1e11
"""A larger number is a time in milliseconds: in seconds it would be in the year 5138."""


SHORTEST_KEY: Final = 8
"""Characters. Programs that have no key print `null`, `None`, `true` or `Error:`."""

_LOOKED_AT: Final = 100
"""So many characters of a word show whether it looks like a key."""


class IssuedKey(NamedTuple):
    """A key that a command printed."""

    key: str
    seconds: float | None
    """The seconds until it expires, or None if the command does not say it."""
    secrets: list[str]
    """The key, and every other word of the output that looks like one."""


def read_key(output: bytes, now: float) -> IssuedKey:
    """Read the standard output of a command. `now` is the time in Unix seconds.

    Raises ValueError, whose text contains nothing of the output.
    """
    try:
        text = output.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it printed bytes that are not UTF-8") from None
    if not text:
        raise ValueError("it printed nothing")
    key, seconds = _read_json(text, now) if text[0] in '{["' else (text, None)
    if problem := flaw(key):
        raise ValueError(f"the printed key {problem}")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("it printed neither a key, in one word of printable ASCII, nor a JSON object")
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"it printed a word of fewer than {SHORTEST_KEY} characters, which is no key")
    return IssuedKey(key, seconds, [key, *likely_keys(text)])


def likely_keys(text: str) -> list[str]:
    """Return the words of an output that look like keys."""
    words = re.findall(r"[^\s\"',;:{}\[\]()]+", text)
    # The time of looks_like_key() grows with the square of the length.
    return [word for word in words if looks_like_key(word[:_LOOKED_AT])]


def _read_json(text: str, now: float) -> tuple[str, float | None]:
    """Return the key and the seconds until it expires."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it printed JSON that cannot be read") from None
    if isinstance(found, str):
        return found, None
    for part in (found, *(found.get(name) for name in _PARTS)) if isinstance(found, dict) else ():
        if isinstance(part, dict) and isinstance(key := _first(part, _KEY_NAMES), str):
            return key, _remaining(part, now)
    raise ValueError(f"it printed JSON without a key: {', '.join(_KEY_NAMES[:-1])} or {_KEY_NAMES[-1]} is required")


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> object:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _remaining(values: Mapping[str, Any], now: float) -> float | None:
    """Return the seconds until a key expires, or None if that is not stated or cannot be read."""
    if (time := _time(_first(values, _TIMES))) is not None:
        return time - now
    return _number(_first(values, _DURATIONS))


def _time(value: object) -> float | None:
    """Return a time in Unix seconds. A text without a time zone is a time of this machine's zone."""
    if (number := _number(value)) is not None:
        return number / 1000 if number > _MILLISECONDS_FROM else number
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: object) -> float | None:
    """Return a number, which metadata services write as a text, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
