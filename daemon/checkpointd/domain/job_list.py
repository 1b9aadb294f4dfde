"""When a job list is read to its end, and how much of it one reading may read. Pure.

A reading reads the head of the list: its first page, and more if there is a reason. Besides, passes read the list to
its end, whatever its order. A pass takes as many readings as it needs: each continues where the last one stopped.
"""

from typing import Final, NamedTuple

REQUEST_SHARE: Final = 0.75
PAGE_SHARE: Final = 0.5
"""The shares of its lease within which a reading must end its last request, and must begin its last page."""

RATE_SHARE: Final = 0.5
"""The share of a source's rate limit that its job list may use; the rest is for polls."""

READINGS_BETWEEN: Final = 10
SHORTEST_PASS_GAP: Final = 300.0
LONGEST_PASS_GAP: Final = 3600.0
"""Seconds. A pass begins so long after the last one ended: ten readings or SHORTEST_PASS_GAP, whichever is shorter. But
it begins after PASSES_BETWEEN times as long as the last one took if that is longer, LONGEST_PASS_GAP at most."""

PASSES_BETWEEN: Final = 3
"""With this gap a long list is read for a quarter of the time."""

HEAD_PAGES: Final = 10
"""The most pages of a head that are read to find unfinished jobs. The statuses of the others come from the passes."""


NEW_JOB_DAYS: Final = 10
"""The new jobs of so many days can be tracked at once, if none were new before: those that exist at the first pass."""


class PassState(NamedTuple):
    """How far the passes over a job list have come. Seconds are negative if the database's clock was set back since."""

    cursor: str | None
    """The id of the last job that the unfinished pass has read, or None if there is no unfinished pass."""
    pages: int
    """How many pages the unfinished pass has read."""
    since_last: float | None
    """Seconds since the last pass ended, or None if none has."""
    last_took: float | None
    """Seconds that the last pass took, from its first request to its end."""


class ReadingLimits(NamedTuple):
    """What one reading may use. It begins no further page of a pass after either is used up."""

    seconds: float
    requests: float


def pass_gap(last_took: float, reading_gap: float) -> float:
    """Return the seconds from the end of a pass to the start of the next one."""
    shortest = min(READINGS_BETWEEN * reading_gap, SHORTEST_PASS_GAP)
    return min(max(PASSES_BETWEEN * last_took, shortest), LONGEST_PASS_GAP)


def is_pass_due(state: PassState, reading_gap: float) -> bool:
    """Return whether to begin or continue a pass. A pass that ended in the future, by a clock that was wrong, is over.

    `reading_gap` is the number of seconds between two readings.
    """
    if state.cursor is not None or state.since_last is None or state.since_last < 0:
        return True
    return state.since_last >= pass_gap(state.last_took or 0, reading_gap)


def reading_limits(reading_gap: float, lease_seconds: float, request_interval: float | None) -> ReadingLimits:
    """Return the limits of a reading: the next one is due in time, and polls have their share of the rate limit."""
    seconds = min(reading_gap, PAGE_SHARE * lease_seconds)
    requests = float("inf") if request_interval is None else RATE_SHARE * seconds / request_interval
    return ReadingLimits(seconds, requests)
