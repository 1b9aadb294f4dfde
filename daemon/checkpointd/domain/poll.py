"""The verdict on a listing: what of it can be believed, and when to look again. Pure."""

from collections.abc import Callable

from checkpointd.domain import cadence, listing
from checkpointd.domain.cadence import Bounds, Memory
from checkpointd.domain.failure import OF_SOURCE, REFUSALS, ErrorClass, Failure
from checkpointd.postgres.save_rows import Poll
from checkpointd.postgres.store import Lease
from checkpointd.provider.client import Pages


def judge(lease: Lease, pages: Pages, bounds: Bounds, holds_secret: Callable[[bytes], bool]) -> Poll:
    """Read a listing and plan the job's next poll. Pure."""
    failure = pages.failure
    digest = reading = None
    memory = Memory(lease.newest_step, lease.newest_seen_at, lease.spacing_s, lease.spread_s)
    if pages.items:
        digest = listing.digest(pages.items)
        if failure or digest != lease.digest:
            reading = listing.read(lease.id, pages.items, holds_secret)
            if reading.foreign is not None:
                failure = Failure(ErrorClass.OTHER_LIST, f"a list of {reading.foreign}, not of checkpoints")
            memory = cadence.learn(memory, (item.step_number for item in reading.items), lease.claimed_at)
    now, settling_since = lease.claimed_at, lease.settling_since
    if settling_since is None and failure is None and reading is None and _seems_ended(lease, memory, bounds):
        settling_since = now  # not before: while nobody could look, something may have come
    plan = cadence.plan(
        memory, status=lease.status, settling_since=settling_since, tracked_at=lease.tracked_at, now=now, bounds=bounds
    )
    gone = failure is not None and _is_gone(lease, failure)
    return Poll(
        lease=lease, complete=failure is None, reading=reading, digest=digest,
        error_class=failure.error_class if failure else None, error=failure.message if failure else None,
        blames_job=failure is not None and failure.error_class not in OF_SOURCE, gone=gone,
        delay=cadence.GONE_GAP if gone else _delay(lease, plan.gap, failure), gap=plan.gap,
        ended=settling_since is not None, settled=plan.settled,
        newest_step=memory.newest_step if memory.newest_seen_at != lease.newest_seen_at else None,
        spacing_s=memory.spacing_s, spread_s=memory.spread_s,
    )  # fmt: skip


def _seems_ended(lease: Lease, memory: Memory, bounds: Bounds) -> bool:
    tracked_at, changed_at, now = lease.tracked_at, lease.last_change_at, lease.claimed_at
    return cadence.seems_ended(
        memory, status=lease.status, tracked_at=tracked_at, changed_at=changed_at, now=now, bounds=bounds
    )


def _is_gone(lease: Lease, failure: Failure) -> bool:
    """Say whether its provider does not know the job, again and for long."""
    same = failure.error_class is ErrorClass.MISSING and lease.error_class == failure.error_class
    return same and cadence.is_gone(lease.equal_failures + 1, lease.failing_since, lease.claimed_at)


def _delay(lease: Lease, gap: float, failure: Failure | None) -> float:
    """Return the seconds until the next poll: the cadence's gap, which failures grow."""
    if failure is None:
        return gap
    cap = cadence.REFUSAL_CAP if failure.error_class in REFUSALS else cadence.FAILURE_CAP
    return max(cadence.back_off(gap, lease.failures + 1, cap, lease.job), failure.retry_after or 0)
