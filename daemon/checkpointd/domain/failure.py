"""Why a listing is incomplete: classes of failures, which concern the job and which its source, and how often to retry.

Pure. The classes follow what providers document and what their own clients do.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LONGEST_PAUSE: Final = 3600.0
"""Seconds. A longer time in a Retry-After header is reduced to this one."""


class ErrorClass(StrEnum):
    """The classes of failures, as the column `error_class` shows them. daemon/README.md explains each."""

    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    NETWORK = "network"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    QUOTA = "quota"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    MISSING = "missing"
    GATEWAY = "gateway"
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
    TOO_MANY_ITEMS = "too_many_items"
    LEASE_LOST = "lease_lost"
    INTERNAL = "internal"


SOURCE_FAILURES: Final = frozenset(
    {ErrorClass.THROTTLED, ErrorClass.QUOTA, ErrorClass.REFUSED, ErrorClass.UNREACHABLE}
)  # fmt: skip
"""Failures that concern the source, unless only one job meets them again and again. attribution.py decides it."""

JOB_FAILURES: Final = frozenset(
    {
        ErrorClass.CURSOR_LOST,
        ErrorClass.OTHER_LIST,
        ErrorClass.EMPTY_PAGE,
        ErrorClass.CURSOR_REPEATED,
        ErrorClass.TOO_MANY_PAGES,
        ErrorClass.TOO_LARGE,
        ErrorClass.TOO_MANY_ITEMS,
        ErrorClass.LEASE_LOST,
        ErrorClass.INTERNAL,
    }
)
"""Failures that concern one job, because its list has a form that cannot be read to its end."""

LASTING_REFUSALS: Final = frozenset({ErrorClass.FORBIDDEN, ErrorClass.BAD_REQUEST})
"""Refusals of one job that do not pass by themselves. Its poll gap grows further than after other failures."""

REFUSALS: Final = LASTING_REFUSALS | {ErrorClass.MISSING}
"""Refusals in the API's own words. They usually concern the job of the request."""

PASSING_FAILURES: Final = frozenset(
    {
        ErrorClass.UNREACHABLE,
        ErrorClass.NETWORK,
        ErrorClass.SERVER_ERROR,
        ErrorClass.CONTENT_TYPE,
        ErrorClass.EMPTY_BODY,
        ErrorClass.HTML,
        ErrorClass.NOT_JSON,
        ErrorClass.NOT_A_LIST,
        ErrorClass.ERROR_IN_200,
        ErrorClass.BAD_HAS_MORE,
    }
)
"""Failures that often pass within a second. The request is made again within the same poll.

A timeout is not among them: the poll would keep its slot for as long again. Its retry is the next poll.
"""

TRIES: Final = 2
"""How often a request is made within one poll, at most."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a listing is incomplete.

    The message may repeat the provider's text. provider/http.py shortens it to one line and removes the secrets.
    """

    error_class: ErrorClass
    message: str
    retry_after: float | None = None
    """The seconds to wait, from the headers of the response, or None."""
    no_retry: bool = False
    """True if a retry cannot succeed now, according to the provider (header x-should-retry: false)."""
    status: int | None = None
    """The HTTP status, or None if there was no response or the status was 200."""
    has_words: bool = False
    """True if the message has the provider's own words, which explain the failure better than a guess."""

    @property
    def refuses_login(self) -> bool:
        """True if a secret may be wrong and replaced: the key, or the credentials for the proxy (status 407)."""
        return self.error_class in {ErrorClass.REFUSED, ErrorClass.FORBIDDEN} or self.status == 407

    @property
    def tries(self) -> int:
        """How often the request may be made within one poll."""
        return TRIES if self.error_class in PASSING_FAILURES and not self.no_retry else 1


def is_pause(failure: Failure) -> bool:
    """Return whether the source pauses for all daemons after a failure."""
    return failure.error_class in {ErrorClass.THROTTLED, ErrorClass.QUOTA}


def pause_seconds(failure: Failure) -> float:
    """Return how many seconds a source pauses: `retry_after`, or else 900 (quota) or 60 (throttled)."""
    return failure.retry_after or (900.0 if failure.error_class is ErrorClass.QUOTA else 60.0)
