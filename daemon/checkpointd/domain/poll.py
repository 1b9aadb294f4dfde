"""The verdict on a listing: what of it can be believed, and when to look again. Pure."""

from collections.abc import Callable
from http import HTTPStatus

import msgspec

from checkpointd.domain import cadence, listing
from checkpointd.domain.cadence import ArrivalHistory, CadenceSettings
from checkpointd.domain.failure import REFUSALS, SOURCE_FAILURES, ErrorClass, Failure
from checkpointd.domain.listing import Listing, RawListing


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A claimed job: what its row of polling said at the claim. Fields in the order of the claims' columns.

    Times are the database's, in Unix seconds: the cadence reckons with them, and nobody else.
    """

    job: int
    source: int
    lease_token: int
    digest: bytes | None
    failures: int
    equal_failures: int
    failing_since: float | None
    error_class: str | None
    settling_since: float | None
    last_change_at: float | None
    newest_step: int | None
    newest_seen_at: float | None
    spacing_s: float | None
    spread_s: float | None
    claimed_at: float
    id: str
    status: str | None
    tracked_at: float
    troubled: bool
    """The source's state was not ok."""


class PollResult(msgspec.Struct, frozen=True):
    """A finished poll, with what has become of it and when the next one is due."""

    lease: Lease
    complete: bool
    reading: Listing | None
    """What was listed; None: equal to the last complete listing, or nothing was read."""
    digest: bytes | None
    error_class: str | None
    error: str | None
    blames_job: bool
    """The failure counts against the job, and not against its source."""
    gone: bool
    """The provider has not known the job for long."""
    delay: float
    """Seconds from the claim to the next poll."""
    gap: float
    """The same without back-off: the cadence's own gap."""
    ended: bool
    """The job has ended, as far as anybody can tell."""
    settled: bool
    """So long ago that equal listings may seal it."""
    newest_step: int | None
    """None: no newer step than before."""
    spacing_s: float | None
    spread_s: float | None

    @property
    def quiet(self) -> bool:
        """Complete and equal to the last complete listing."""
        return self.complete and self.reading is None


class SavedPoll(msgspec.Struct, frozen=True):
    """What a poll's save wrote."""

    poll: PollResult
    new: int = 0
    changed: int = 0
    rejected: int = 0
    """Items that could not be read, of an equal listing those of the one before."""


def is_forbidden_job(failure: Failure, *, key_accepted: bool) -> bool:
    """Return whether a 403 concerns this job alone: the key was accepted for other jobs since it was last refused."""
    return failure.status == HTTPStatus.FORBIDDEN and key_accepted


def evaluate(
    lease: Lease, pages: RawListing, bounds: CadenceSettings, holds_secret: Callable[[bytes], bool]
) -> PollResult:
    """Read a listing and plan the job's next poll. Pure."""
    failure = pages.failure
    digest = reading = None
    memory = ArrivalHistory(lease.newest_step, lease.newest_seen_at, lease.spacing_s, lease.spread_s)
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
    return PollResult(
        lease=lease, complete=failure is None, reading=reading, digest=digest,
        error_class=failure.error_class if failure else None, error=failure.message if failure else None,
        blames_job=failure is not None and failure.error_class not in SOURCE_FAILURES, gone=gone,
        delay=cadence.GONE_GAP if gone else _delay(lease, plan.gap, failure), gap=plan.gap,
        ended=settling_since is not None, settled=plan.settled,
        newest_step=memory.newest_step if memory.newest_seen_at != lease.newest_seen_at else None,
        spacing_s=memory.spacing_s, spread_s=memory.spread_s,
    )  # fmt: skip


def _seems_ended(lease: Lease, memory: ArrivalHistory, bounds: CadenceSettings) -> bool:
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
