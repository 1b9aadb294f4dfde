"""One poll: its lease, the evaluation of its listing, and its result. Pure."""

from collections.abc import Callable

import msgspec

from checkpointd.domain import cadence
from checkpointd.domain.arrivals import Arrivals, learn
from checkpointd.domain.attribution import Verdict
from checkpointd.domain.cadence import CadenceSettings, SourceCadence
from checkpointd.domain.failure import LASTING_REFUSALS, SOURCE_FAILURES, ErrorClass, Failure
from checkpointd.domain.growth import is_unstable
from checkpointd.domain.listing import LISTING_METRICS, Listing, RawListing, content_digest, digest, read_listing


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A claimed job, with the state of its row of `polling` at the claim.

    The fields are the columns that the claims return, in the same order. Times are those of the database's clock, in
    Unix seconds.
    """

    job: int
    source: int
    lease_token: int
    digest: bytes | None
    """The digest of the last complete listing, or None if this one must be compared in full."""
    content_digest: bytes | None
    instability: int
    """The score of instability: see growth.py."""
    failures: int
    equal_failures: int
    failing_since: float | None
    error_class: str | None
    settling_since: float | None
    last_change_at: float | None
    newest_step: int | None
    newest_seen_at: float | None
    arrivals: int
    arrival_error_s: float
    first_arrival_s: float | None
    spacing_s: float | None
    spread_s: float | None
    publication_delay_s: float
    last_complete_at: float | None
    claimed_at: float
    waited_s: float
    """For so many seconds since the last arrival, or since the start of tracking, the job was queued or paused."""
    epoch_estimate_s: float | None
    """The seconds that the provider estimated for an epoch before the first arrival, if it did."""
    id: str
    status: str | None
    tracked_at: float
    source_not_ok: bool
    """True if the state of the source is not `ok`."""
    is_listed: bool
    """True if the job list shows the job, which was not found, or was not read to its end since then."""
    is_lost: bool = False
    """True if the job is not leased, because its last leases were lost. That counts as a failed poll."""

    @property
    def known_arrivals(self) -> Arrivals:
        """The arrivals of the job until now."""
        return Arrivals(
            self.newest_step,
            self.newest_seen_at,
            self.arrivals,
            self.arrival_error_s,
            self.first_arrival_s,
            self.spacing_s,
            self.spread_s,
            self.publication_delay_s,
        )


class PollResult(msgspec.Struct, frozen=True):
    """The result of a poll, and when the next one is due."""

    lease: Lease
    complete: bool
    listing: Listing | None
    """The listing, or None if it equals the last complete listing or nothing was read."""
    digest: bytes | None
    content_digest: bytes | None
    """The content digest, or None if the listing was not read or is incomplete."""
    error_class: str | None
    error: str | None
    blames_job: bool
    """True if the failure counts against the job, and not against its source."""
    gone: bool
    """True if the provider has not found the job for a long time: see cadence.is_gone()."""
    delay: float
    """Seconds from the claim to the next poll."""
    gap: float
    """The poll gap in seconds, which is the delay without the back-off after failures."""
    ended: bool
    """True if the job has ended: its status is final, or it is unknown and nothing changed for a long time."""
    settled: bool
    """True if it ended so long ago that equal listings may seal it."""
    arrivals: Arrivals

    @property
    def quiet(self) -> bool:
        """True if the listing is complete and equal to the last complete one."""
        return self.complete and self.listing is None


class SavedPoll(msgspec.Struct, frozen=True):
    """A poll that was saved, with the numbers of checkpoints that the save added and changed."""

    result: PollResult
    new: int = 0
    changed: int = 0
    rejected: int = 0
    """The number of items that cannot be read, wholly or in part. For a quiet poll, it is the number of items of the
    last compared listing of which nothing could be stored."""
    became_unstable: bool = False


def evaluate(
    lease: Lease,
    raw: RawListing,
    settings: CadenceSettings,
    holds_secret: Callable[[bytes], bool],
    verdict: Verdict = Verdict(),  # noqa: B008  # immutable
    source: SourceCadence | None = None,
) -> PollResult:
    """Read a listing, and plan the next poll of its job. `verdict` is what its failure means.

    A listing with the digest of the last complete one is not read again: if it has one page, not even decoded. If only
    its content digest is the same, the poll is quiet, too.
    """
    failure, listing, hashed, content = raw.failure, None, None, None
    source = source or settings.unknown_source
    arrivals = lease.known_arrivals
    since = arrivals.newest_seen_at or lease.tracked_at
    waited = min(lease.waited_s, max(lease.claimed_at - since, 0.0))  # the clock may have been stepped
    if raw.is_known:
        hashed = lease.digest
    elif raw.pages:
        hashed = digest(raw.bodies)
        if failure or hashed != lease.digest:
            listing = read_listing(lease.id, raw.pages, holds_secret, raw.reader)
            if listing.foreign is not None:
                failure = Failure(ErrorClass.OTHER_LIST, f"a list of {listing.foreign}, not of checkpoints")
            elif listing.is_cut_off:
                failure = Failure(ErrorClass.TOO_MANY_ITEMS, f"more than {LISTING_METRICS} metrics without a column")
            arrivals = learn(
                arrivals,
                ((item.position, item.created_at) for item in listing.checkpoints),
                previous=lease.last_complete_at,
                now=lease.claimed_at,
                tracked_at=lease.tracked_at,
                prior=source.prior,
                waited=waited,
            )
            if arrivals.newest_step != lease.newest_step:
                waited = 0.0
            content = None if failure else content_digest(listing)
            if content is not None and lease.digest is not None and content == lease.content_digest:
                listing = None
    now, settling_since = lease.claimed_at, lease.settling_since
    # Only a quiet poll shows that nothing changed. After a failed poll, checkpoints may have arrived unseen. Whether a
    # poll of an unstable job is quiet is decided when it is saved.
    may_be_quiet = failure is None and (listing is None or is_unstable(lease.instability))
    if settling_since is None and may_be_quiet and _seems_ended(lease, arrivals, settings):
        settling_since = now
    plan = cadence.plan(
        arrivals,
        job=lease.job,
        status=lease.status,
        settling_since=settling_since,
        tracked_at=lease.tracked_at,
        now=now,
        settings=settings,
        source=source,
        waited=waited,
        epoch_estimate=lease.epoch_estimate_s,
    )
    gone = failure is not None and _is_gone(lease, failure, verdict)
    return PollResult(
        lease=lease,
        complete=failure is None,
        listing=listing,
        digest=hashed,
        content_digest=content,
        error_class=failure.error_class if failure else None,
        error=failure.message if failure else None,
        blames_job=failure is not None
        and verdict.blames_job
        and (verdict.refused_alone or failure.error_class not in SOURCE_FAILURES),
        gone=gone,
        delay=cadence.GONE_GAP if gone else _delay(lease, plan.gap, failure, verdict),
        gap=plan.gap,
        ended=settling_since is not None,
        settled=plan.settled,
        arrivals=arrivals,
    )


def _seems_ended(lease: Lease, arrivals: Arrivals, settings: CadenceSettings) -> bool:
    return cadence.seems_ended(
        arrivals,
        status=lease.status,
        tracked_at=lease.tracked_at,
        changed_at=lease.last_change_at,
        now=lease.claimed_at,
        settings=settings,
    )


def _is_gone(lease: Lease, failure: Failure, verdict: Verdict) -> bool:
    """Return whether this failure and those before it show that the job is gone.

    It is not if its source lists it or fails, or if nothing else of the source was read since the failures began: then
    the source may answer so for every job.
    """
    same = failure.error_class is ErrorClass.MISSING and lease.error_class == failure.error_class
    if not (same and cadence.is_gone(lease.equal_failures + 1, lease.failing_since, lease.claimed_at)):
        return False
    failing_for = lease.claimed_at - (lease.failing_since or lease.claimed_at)
    answers = verdict.answered_ago is not None and verdict.answered_ago <= failing_for
    return answers and not (lease.is_listed or lease.source_not_ok or verdict.source_fails)


def _delay(lease: Lease, gap: float, failure: Failure | None, verdict: Verdict) -> float:
    """Return the seconds until the next poll: the poll gap, increased by failures in a row and by Retry-After."""
    if failure is None:
        return gap
    is_lasting = failure.error_class in LASTING_REFUSALS and not verdict.source_fails
    cap = cadence.REFUSAL_CAP if is_lasting else cadence.FAILURE_CAP
    return max(cadence.back_off(gap, lease.failures + 1, cap, lease.job), failure.retry_after or 0)
