"""When to poll a job next. Pure: the state is a few columns of its row of `polling`, and the time is an argument.

All times are those of the database's clock, in Unix seconds; all gaps are in seconds.

The checkpoints of a job arrive at regular intervals. After two arrivals, polls are frequent in the window in which the
next arrival is expected, and rare outside of it. Before that, and when an arrival is overdue, the gap grows with the
time since the last arrival.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

from checkpointd.domain.job import WAITING_STATUSES, has_ended

FAILURE_CAP: Final = 900.0
REFUSAL_CAP: Final = 3600.0
"""The largest gaps, in seconds, that failures double up to."""

GONE_GAP: Final = 86400.0
"""The gap of a job that is gone, in seconds."""
GONE_FAILURES: Final = 5
GONE_AFTER: Final = 3600.0
"""A job is gone after so many polls in a row without it, over at least so many seconds."""


class CadenceSettings(NamedTuple):
    """The settings of an operator, in seconds."""

    shortest: float
    longest: float
    """The gaps between polls of a job that does not fail are between these two."""
    settle: float
    """How long a job is polled after its end. Checkpoints and metrics arrive minutes to hours after it."""
    assume_ended: float
    """A job whose status is unknown counts as ended after so long without a change."""

    def clamp(self, gap: float) -> float:
        """Return the nearest permitted gap."""
        return min(max(gap, self.shortest), self.longest)


class ArrivalHistory(NamedTuple):
    """What is remembered of a job's arrivals.

    The largest step, when it was first listed, and the mean and the mean deviation of the times between arrivals. All
    are None before the first arrival; the last two are None before the second.
    """

    newest_step: int | None
    newest_seen_at: float | None
    spacing_s: float | None
    spread_s: float | None


class Plan(NamedTuple):
    """The seconds from the claim of this poll to the next, and whether equal listings may seal the job by now."""

    gap: float
    settled: bool


def learn(history: ArrivalHistory, steps: Iterable[int], now: float) -> ArrivalHistory:
    """Return the history after a listing of these steps that was claimed at `now`.

    Mean and deviation are exponential averages, as TCP keeps them of round-trip times (RFC 6298).
    """
    arrived = {step for step in steps if history.newest_step is None or step > history.newest_step}
    if not arrived:
        return history
    if history.newest_step is None or history.newest_seen_at is None:
        return ArrivalHistory(max(arrived), now, None, None)
    sample = max(now - history.newest_seen_at, 0.0) / len(arrived)
    if history.spacing_s is None or history.spread_s is None:
        return ArrivalHistory(max(arrived), now, sample, sample / 4)
    error = sample - history.spacing_s
    spacing, spread = history.spacing_s + 0.3 * error, 0.7 * history.spread_s + 0.3 * abs(error)
    return ArrivalHistory(max(arrived), now, spacing, spread)


def seems_ended(
    history: ArrivalHistory,
    *,
    status: str | None,
    tracked_at: float,
    changed_at: float | None,
    now: float,
    settings: CadenceSettings,
) -> bool:
    """Return whether a job has ended, by its status or, if that is unknown, by a long time without a change."""
    if has_ended(status):
        return True
    word = (status or "").casefold()
    last_news = max(tracked_at, history.newest_seen_at or tracked_at, changed_at or tracked_at)
    return word != "running" and word not in WAITING_STATUSES and now - last_news > settings.assume_ended


def plan(
    history: ArrivalHistory,
    *,
    status: str | None,
    settling_since: float | None,
    tracked_at: float,
    now: float,
    settings: CadenceSettings,
) -> Plan:
    """Return when to poll next."""
    if settling_since is not None:
        since_end = now - settling_since
        return Plan(settings.clamp(since_end / 4), settled=since_end >= settings.settle)
    if (status or "").casefold() in WAITING_STATUSES:
        return Plan(settings.longest, settled=False)
    age = now - max(history.newest_seen_at or tracked_at, tracked_at)
    return Plan(settings.clamp(_running_gap(history, age, settings.shortest)), settled=False)


def _running_gap(history: ArrivalHistory, age: float, shortest: float) -> float:
    """Return the gap of a running job whose last arrival was `age` seconds ago."""
    if history.spacing_s is None or history.spread_s is None:
        return age / 8
    early = history.spacing_s - 2 * history.spread_s - shortest
    late = history.spacing_s + 2 * history.spread_s + shortest
    if age < early:
        return early - age
    if age < late:
        return history.spread_s / 2
    return (age - history.spacing_s) / 4


def is_gone(failures: int, since: float | None, now: float) -> bool:
    """Return whether a job is gone, after so many polls in a row in which the provider did not know it."""
    return failures >= GONE_FAILURES and since is not None and now - since >= GONE_AFTER


def back_off(gap: float, failures: int, cap: float, job: int) -> float:
    """Return the seconds to wait after `failures` failed polls in a row (including this one), doubled up to `cap`.

    A hash of the job and the count shortens it by up to a fifth, so that jobs that failed together are not polled
    together again.
    """
    doubled = min(gap * 2.0 ** min(failures, 30), max(cap, gap))
    return doubled * (0.8 + 0.2 * (crc32(b"%d:%d" % (job, failures)) / 2**32))
