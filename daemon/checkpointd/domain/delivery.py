"""What an endpoint answered to a message, when the message is sent again, and when its delivery ends. Pure."""

from enum import StrEnum
from typing import Final, NamedTuple

FIRST_RETRY_GAP: Final = 5.0
LONGEST_RETRY_GAP: Final = 3600.0
"""Seconds between two attempts: each gap is twice as long as the one before it, up to an hour."""

GIVE_UP_SECONDS: Final = 3 * 86400.0
"""A failed attempt is the last one of a message that is this old, if its endpoint has failed for this long."""

GIVE_UP_ATTEMPTS: Final = 12
"""So many attempts in a row must have failed, too: the gaps have then grown to an hour. The three days are measured by
the database's clock, which may have been set forward since the first one. An endpoint that was down for three days has
failed about eighty times."""

_TRANSIENT: Final = {408, 425, 429}


class Outcome(StrEnum):
    """How a delivery ended."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """The endpoint gave an answer that a repetition would not change."""
    GIVEN_UP = "given_up"
    """The endpoint has failed for three days."""


class Answer(NamedTuple):
    """What an endpoint answered: the HTTP status, or None without an answer; the same in words; the time to wait."""

    status: int | None
    text: str
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether the endpoint accepted the message."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def may_change(self) -> bool:
        """Whether another attempt may have another answer."""
        return self.status is None or self.status in _TRANSIENT or self.status >= 500

    @property
    def outcome(self) -> Outcome:
        """How the delivery ends if this answer is the last one."""
        return Outcome.DELIVERED if self.is_success else Outcome.GIVEN_UP if self.may_change else Outcome.REFUSED


def next_gap(failures: int, answer: Answer) -> float:
    """Return the seconds until the next attempt, after `failures` failed ones before the one with this answer."""
    gap = min(FIRST_RETRY_GAP * 2.0 ** min(failures, 20), LONGEST_RETRY_GAP)
    return max(gap, answer.retry_after or 0.0)


def is_given_up(failures: int, failing_seconds: float, age: float) -> bool:
    """Return whether a failed attempt is the last one of a message of this age.

    The endpoint has failed for so long, with so many `failures` in a row before this one. Times are in seconds.
    """
    return failures + 1 >= GIVE_UP_ATTEMPTS and min(failing_seconds, age) >= GIVE_UP_SECONDS
