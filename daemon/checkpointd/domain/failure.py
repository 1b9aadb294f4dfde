"""What a provider's unhappy answer means for the poll, the job and the source. Pure.

It follows what providers document and what their own clients do.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

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


SOURCE_FAILURES: Final = frozenset({ErrorClass.THROTTLED, ErrorClass.QUOTA, ErrorClass.REFUSED})
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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a listing is not complete, in words fit for people: one line, no secret."""

    error_class: ErrorClass
    message: str
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    no_retry: bool = False
    """The provider reports that a retry cannot succeed now (header x-should-retry: false)."""
    status: int | None = None
    """The HTTP status, where it is not 200."""

    @property
    def tries(self) -> int:
        """How often the request may be made within one poll."""
        return 1 if self.no_retry else _TRIES.get(self.error_class, 1)


def pause_seconds(failure: Failure) -> float:
    """Return how long a source pauses: as asked for, else a minute if throttled, a quarter hour if out of quota."""
    return failure.retry_after or (900.0 if failure.error_class is ErrorClass.QUOTA else 60.0)
