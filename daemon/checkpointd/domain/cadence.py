"""When to poll a job next. Pure: the state of the job and the time are arguments.

All times are those of the database's clock, in Unix seconds; all gaps are in seconds.

A checkpoint arrives when a listing contains it for the first time. The checkpoints of a job arrive at regular
intervals. After two arrivals, polls are frequent in the window in which the next arrival is expected, and rare before
it. Before the second arrival, and when an arrival is overdue, the poll gap grows with the time since the last arrival.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

from checkpointd.domain.job import WAITING_STATUSES, has_ended

FAILURE_CAP: Final = 300.0
REFUSAL_CAP: Final = 3600.0
"""Each failure doubles the poll gap, up to FAILURE_CAP seconds, so that polls resume within minutes after any failure.
For LASTING_REFUSALS it is up to REFUSAL_CAP seconds, unless the source fails."""

GONE_GAP: Final = 86400.0
"""The poll gap of a job that is gone, in seconds."""
GONE_FAILURES: Final = 5
GONE_AFTER: Final = 3600.0
"""A job is gone if GONE_FAILURES polls in a row did not find it, over at least GONE_AFTER seconds."""


class CadenceSettings(NamedTuple):
    """The settings on which the cadence depends, in seconds."""

    shortest: float
    longest: float
    """The limits of the poll gap of a job that does not fail."""
    settle: float
    """How long a job is polled after its end, at least. Checkpoints and metrics can arrive hours after the end."""
    assume_ended: float
    """A job whose status is unknown counts as ended after this time without a change."""

    def clamp(self, gap: float) -> float:
        """Return the nearest permitted gap."""
        return min(max(gap, self.shortest), self.longest)


class ArrivalHistory(NamedTuple):
    """A summary of the arrivals of a job.

    The fields are the largest step, the time when it arrived, and the mean and the mean deviation of the seconds
    between arrivals. All are None before the first arrival; the last two are None before the second.
    """

    newest_step: int | None
    newest_seen_at: float | None
    spacing_s: float | None
    spread_s: float | None


class Plan(NamedTuple):
    """The seconds from the claim of this poll to the next poll, and whether equal listings may now seal the job."""

    gap: float
    settled: bool


def learn(history: ArrivalHistory, steps: Iterable[int], now: float) -> ArrivalHistory:
    """Return the history after a poll that was claimed at `now` and listed these steps.

    The mean and the deviation are exponential moving averages, as in TCP's estimate of the round-trip time (RFC 6298),
    but with a weight of 0.3 for the newest value.
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
    """Return whether a job has ended.

    It has if its status is final, or if its status is unknown and nothing changed for longer than
    `settings.assume_ended`.
    """
    if has_ended(status):
        return True
    folded = (status or "").casefold()
    is_unknown = folded != "running" and folded not in WAITING_STATUSES
    last_news = max(tracked_at, history.newest_seen_at or tracked_at, changed_at or tracked_at)
    return is_unknown and now - last_news > settings.assume_ended


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
    window_start = history.spacing_s - 2 * history.spread_s - shortest
    window_end = history.spacing_s + 2 * history.spread_s + shortest
    if age < window_start:
        return window_start - age
    if age < window_end:
        return history.spread_s / 2
    return (age - history.spacing_s) / 4


def is_gone(failures: int, since: float | None, now: float) -> bool:
    """Return whether a job is gone. The last `failures` polls did not find it, the first of them at `since`."""
    return failures >= GONE_FAILURES and since is not None and now - since >= GONE_AFTER


def back_off(gap: float, failures: int, cap: float, job: int) -> float:
    """Return the poll gap after `failures` failed polls in a row: `gap`, doubled for each of them, up to `cap`.

    A hash of the job and the count shortens it by up to a fifth, so that jobs that failed together are not polled
    together again.
    """
    doubled = min(gap * 2.0 ** min(failures, 30), max(cap, gap))
    return doubled * (0.8 + 0.2 * (crc32(b"%d:%d" % (job, failures)) / 2**32))
