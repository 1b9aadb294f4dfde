"""What a response with an error status means: the class of the failure, and the seconds to wait. Pure.

The rules follow what providers document and what their own clients do.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from checkpointd.domain.failure import LONGEST_PAUSE, ErrorClass, Failure

_QUOTA_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)

_ERROR_MEMBERS: Final = frozenset({"error", "errors", "detail", "message"})
"""APIs report an error in one of these members of an object. Without any, a gateway answered instead of the API."""


def failure_of(status: int, headers: Mapping[str, str], body: bytes, *, paging: bool) -> Failure:
    """Return what a response with a status other than 200 means; `paging` is true if a cursor was sent.

    The message of the failure repeats the provider's text, which may contain secrets.
    """
    content = _json_object(body)
    error = content["error"] if isinstance(content.get("error"), dict) else {}
    # The message of a 401 contains a part of the key.
    message = "" if status == HTTPStatus.UNAUTHORIZED else error.get("message")
    code = error.get("code") or error.get("type")
    words = [f"HTTP {status}", *(word for word in (code, message) if isinstance(word, str) and word)]
    no_retry = headers.get("x-should-retry", "").lower() == "false"
    error_class = _classify(status, content, error, paging=paging)
    return Failure(error_class, " ".join(words), _retry_after(headers), no_retry, status)


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type header names JSON: application/json, or a subtype of +json (RFC 6839)."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def http_date(header: str) -> datetime | None:
    """Return the time of an HTTP date, or None if the text is not one."""
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    # HTTP dates are in UTC, and some formats do not include the zone.
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body, or an empty one."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _classify(status: int, content: Mapping[str, Any], error: Mapping[str, Any], *, paging: bool) -> ErrorClass:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        is_quota = error.get("type") == "insufficient_quota" or str(error.get("code")) in _QUOTA_CODES
        return ErrorClass.QUOTA if is_quota else ErrorClass.THROTTLED
    if status == HTTPStatus.UNAUTHORIZED:
        return ErrorClass.REFUSED
    if status in {400, 404, 422} and paging:  # the job exists, because its previous page was read: the cursor is lost
        return ErrorClass.CURSOR_LOST
    if status in {408, 409, 425} or status >= 500:
        return ErrorClass.SERVER_ERROR
    if 400 <= status < 500 and _ERROR_MEMBERS.isdisjoint(content):
        return ErrorClass.GATEWAY
    if status == HTTPStatus.FORBIDDEN:
        return ErrorClass.REFUSED if _concerns_key(content, error) else ErrorClass.FORBIDDEN
    if status == HTTPStatus.NOT_FOUND:
        return ErrorClass.MISSING
    return ErrorClass.REDIRECT if 300 <= status < 400 else ErrorClass.BAD_REQUEST


def _concerns_key(content: Mapping[str, Any], error: Mapping[str, Any]) -> bool:
    """Return whether a 403 concerns the key, and therefore all jobs of the source, and not only one job."""
    if str(error.get("code")).startswith(("unsupported_country", "insufficient_permissions")):
        return True
    texts = (error.get("message"), *map(content.get, _ERROR_MEMBERS))
    return any("scope" in text for text in texts if isinstance(text, str))  # the key lacks a permission


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait from the headers, or None.

    They are in milliseconds, in seconds, or a date, which is compared with the Date header of the same response.
    """
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
