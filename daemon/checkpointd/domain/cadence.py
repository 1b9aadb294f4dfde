"""When to look again at a job. Pure: what is remembered stands in the job's row of polling, the time is an argument.

All times are the database's, in Unix seconds, and all gaps are in seconds.

Checkpoints of a job become visible at regular distances. Once two arrivals were seen, polls are aimed at the window in
which the next one is expected and are sparse elsewhere; before, and when it is overdue, the gap grows with the wait.
"""

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from checkpointd.domain.job import WAITING_STATUSES, has_ended

FAILURE_CAP = 900.0
REFUSAL_CAP = 3600.0
"""The longest gaps, in seconds, that failures double up to."""

GONE_GAP = 86400.0
GONE_FAILURES, GONE_AFTER = 5, 3600.0
"""A job that was not found so often, for so long, is asked for at this gap in seconds."""


class CadenceSettings(NamedTuple):
    """What an operator sets, in seconds."""

    shortest: float
    longest: float
    """The gap between two polls of a job that does not fail lies between these two."""
    settle: float
    """How long a job is watched after its end: checkpoints and metrics come late, minutes to hours after it."""
    assume_ended: float
    """After so long without news, a job whose status nobody tells counts as ended."""

    def clamp(self, gap: float) -> float:
        """Return the nearest gap within the bounds."""
        return min(max(gap, self.shortest), self.longest)


class ArrivalHistory(NamedTuple):
    """What is remembered of a job's arrivals: the largest step, when it was first seen, and the learnt rhythm (s)."""

    newest_step: int | None
    newest_seen_at: float | None
    spacing_s: float | None
    spread_s: float | None


class Plan(NamedTuple):
    """When to poll next, in seconds after this poll's claim, and whether equal listings may stop it for good by now."""

    gap: float
    settled: bool


def learn(memory: ArrivalHistory, steps: Iterable[int], now: float) -> ArrivalHistory:
    """Take note of the steps of a listing that was claimed at `now`."""
    arrived = {step for step in steps if memory.newest_step is None or step > memory.newest_step}
    if not arrived:
        return memory
    if memory.newest_step is None or memory.newest_seen_at is None:
        return ArrivalHistory(max(arrived), now, None, None)
    sample = max(now - memory.newest_seen_at, 0.0) / len(arrived)
    if memory.spacing_s is None or memory.spread_s is None:
        return ArrivalHistory(max(arrived), now, sample, sample / 4)
    error = sample - memory.spacing_s
    return ArrivalHistory(max(arrived), now, memory.spacing_s + 0.3 * error, 0.7 * memory.spread_s + 0.3 * abs(error))


def seems_ended(memory: ArrivalHistory, *, status: str | None, tracked_at: float, changed_at: float | None, now: float,
                bounds: CadenceSettings) -> bool:  # fmt: skip
    """Say whether a job has ended: by its status, or, where nobody tells that it goes on, by days without news."""
    if has_ended(status):
        return True
    word = (status or "").casefold()
    news_at = max(tracked_at, memory.newest_seen_at or tracked_at, changed_at or tracked_at)
    return word != "running" and word not in WAITING_STATUSES and now - news_at > bounds.assume_ended


def plan(
    memory: ArrivalHistory,
    *,
    status: str | None,
    settling_since: float | None,
    tracked_at: float,
    now: float,
    bounds: CadenceSettings,
) -> Plan:
    """Say when to poll next. All times are the database's."""
    if settling_since is not None:
        ended = now - settling_since
        return Plan(bounds.clamp(ended / 4), settled=ended >= bounds.settle)
    if (status or "").casefold() in WAITING_STATUSES:
        return Plan(bounds.longest, settled=False)
    age = now - max(memory.newest_seen_at or tracked_at, tracked_at)
    return Plan(bounds.clamp(_watch(memory, age, bounds.shortest)), settled=False)


def _watch(memory: ArrivalHistory, age: float, shortest: float) -> float:
    """Return the gap for a running job whose last news is `age` seconds old."""
    if memory.spacing_s is None or memory.spread_s is None:
        return age / 8
    early = memory.spacing_s - 2 * memory.spread_s - shortest
    late = memory.spacing_s + 2 * memory.spread_s + shortest
    if age < early:
        return early - age
    if age < late:
        return memory.spread_s / 2
    return (age - memory.spacing_s) / 4


def is_gone(failures: int, since: float | None, now: float) -> bool:
    """Say whether a job that its provider does not know is past hope: asked often enough, for long enough."""
    return failures >= GONE_FAILURES and since is not None and now - since >= GONE_AFTER


def back_off(gap: float, failures: int, cap: float, job: int) -> float:
    """Return the seconds to wait after `failures` failed polls in a row (this one counts), doubled up to `cap`.

    A hash of job and count moves it by up to a fifth, so that jobs that failed together do not return together.
    """
    doubled = min(gap * 2.0 ** min(failures, 30), max(cap, gap))
    return doubled * (0.8 + 0.2 * (crc32(b"%d:%d" % (job, failures)) / 2**32))
