"""Status and headers of an answer → a failure: what it means, and how long the provider asks to wait. Pure.

It follows what providers document and what their own clients do.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from checkpointd.domain.failure import LONGEST_PAUSE, ErrorClass, Failure

_SPENT: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)


def failure_of(status: int, headers: Mapping[str, str], body: bytes, *, paging: bool) -> Failure:
    """Return what an answer with a status other than 200 means; `paging` is true if a cursor was sent.

    The message has the provider's own words, which may contain secrets.
    """
    error = error_object(body)
    # The message of a 401 shows a part of the key.
    message = "" if status == HTTPStatus.UNAUTHORIZED else error.get("message")
    code = error.get("code") or error.get("type")
    words = [f"HTTP {status}", *(word for word in (code, message) if isinstance(word, str) and word)]
    no_retry = headers.get("x-should-retry", "").lower() == "false"
    error_class = classify(status, error, paging=paging)
    return Failure(error_class, " ".join(words), retry_after(headers), no_retry, status)


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type header names JSON: application/json, or a subtype of +json (RFC 6839)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def error_object(body: bytes) -> dict[str, Any]:
    """Return the error object that providers send with a status of failure; empty where there is none."""
    try:
        found = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def classify(status: int, error: Mapping[str, Any], *, paging: bool) -> ErrorClass:
    """Say what a status other than 200 means; `paging`: a cursor was sent."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        spent = error.get("type") == "insufficient_quota" or str(error.get("code")) in _SPENT
        return ErrorClass.QUOTA if spent else ErrorClass.THROTTLED
    if status == HTTPStatus.UNAUTHORIZED:
        return ErrorClass.REFUSED
    if status == HTTPStatus.FORBIDDEN:
        # No error object: a gateway or a region block in front of the API. A missing scope is the key's fault, too.
        of_key = not error or str(error.get("code")).startswith(("unsupported_country", "insufficient_permissions"))
        return ErrorClass.REFUSED if of_key or "scope" in str(error.get("message")) else ErrorClass.FORBIDDEN
    if status in {400, 404, 422} and paging:  # of a job that was there a moment ago
        return ErrorClass.CURSOR_LOST
    if status == HTTPStatus.NOT_FOUND:
        return ErrorClass.MISSING
    if status in {408, 409, 425} or status >= 500:
        return ErrorClass.SERVER_ERROR
    return ErrorClass.REDIRECT if 300 <= status < 400 else ErrorClass.BAD_REQUEST


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After: milliseconds, seconds or a date, which is taken against the answer's own clock."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (value := headers.get(name)) is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            now, then = http_date(headers.get("Date", "")), http_date(value)
            if now is None or then is None:
                continue
            seconds = (then - now).total_seconds()
        if math.isfinite(seconds) and seconds > 0:
            return min(seconds, LONGEST_PAUSE)
    return None


def http_date(header: str) -> datetime | None:
    """Read a time as HTTP has it, in whole seconds; None for what is none."""
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)  # they are all in UTC, and some formats do not say so
