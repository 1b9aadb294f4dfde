"""What a provider's unhappy answer means for the poll, the job and the source. Pure.

It follows what providers document and what their own clients do.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

LONGEST_PAUSE: Final = 3600.0
"""Seconds: no provider may silence us for longer at a time."""


class ErrorClass(StrEnum):
    """What went wrong, as `error_class` shows it."""

    TIMEOUT = "timeout"
    NETWORK = "network"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    QUOTA = "quota"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    MISSING = "missing"
    BAD_REQUEST = "bad_request"
    REDIRECT = "redirect"
    CURSOR_LOST = "cursor_lost"
    CONTENT_TYPE = "content_type"
    EMPTY_BODY = "empty_body"
    HTML = "html"
    NOT_JSON = "not_json"
    NOT_A_LIST = "not_a_list"
    ERROR_IN_200 = "error_in_200"
    BAD_HAS_MORE = "bad_has_more"
    OTHER_LIST = "other_list"
    EMPTY_PAGE = "empty_page"
    CURSOR_REPEATED = "cursor_repeated"
    TOO_MANY_PAGES = "too_many_pages"
    TOO_LARGE = "too_large"
    INTERNAL = "internal"


OF_SOURCE: Final = frozenset({ErrorClass.THROTTLED, ErrorClass.QUOTA, ErrorClass.REFUSED})
"""Not the job's fault: the source pauses (throttled, quota) or falls silent in this process (refused)."""

REFUSALS: Final = frozenset({ErrorClass.FORBIDDEN, ErrorClass.BAD_REQUEST, ErrorClass.REDIRECT})
"""Refusals of one job, which do not pass by themselves."""

_TRIES: Final = {
    ErrorClass.TIMEOUT: 3,
    ErrorClass.NETWORK: 3,
    ErrorClass.SERVER_ERROR: 3,
    ErrorClass.CONTENT_TYPE: 2,
    ErrorClass.EMPTY_BODY: 2,
    ErrorClass.HTML: 2,
    ErrorClass.NOT_JSON: 2,
    ErrorClass.NOT_A_LIST: 2,
    ErrorClass.ERROR_IN_200: 2,
    ErrorClass.BAD_HAS_MORE: 2,
}
"""How often a request is made within one poll, else once: networks and servers hiccup, bodies are cut."""

_SPENT: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a listing is not complete, in words fit for people: one line, no secret."""

    error_class: ErrorClass
    message: str
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    hopeless: bool = False
    """The provider says that trying again now is no use (x-should-retry: false)."""
    status: int | None = None
    """The HTTP status, where it is not 200."""

    @property
    def tries(self) -> int:
        """How often the request may be made within one poll."""
        return 1 if self.hopeless else _TRIES.get(self.error_class, 1)


def pause_seconds(failure: Failure) -> float:
    """Return how long a source pauses: as asked for, else a minute if throttled, a quarter hour if out of quota."""
    return failure.retry_after or (900.0 if failure.error_class is ErrorClass.QUOTA else 60.0)


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
