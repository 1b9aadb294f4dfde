"""Read a source's job list: the statuses of tracked jobs in bulk, and, if configured, new jobs to track.

A page has the statuses of a hundred jobs, so no job needs a request of its own.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import Final

from checkpointd.domain.attribution import JOB_LIST
from checkpointd.domain.failure import SOURCE_FAILURES, ErrorClass, Failure, is_pause, pause_seconds
from checkpointd.domain.job import ENDED_STATUSES, read_jobs
from checkpointd.domain.reading import Reject
from checkpointd.polling.source import ActiveSource, RateLimiter, store_failure, store_recovery
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.job_records import save_job_records
from checkpointd.postgres.store import JobListLease, Store
from checkpointd.provider.http import ApiError
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import LOGGED_JOBS, REJECTS, REQUESTS

LIST_SHARE: Final = 0.75
"""The share of the lease within which the job list must be read."""

LONGEST_GAP: Final = 300.0
"""Seconds. After failures a job list is tried again after this time at most, or after its own gap if that is longer."""

RATE_SHARE: Final = 0.5
"""The share of a source's rate limit that its job list may use; the rest is for polls."""


class JobList:
    """The job list of one source. A lease on the source's row prevents other daemons from reading it meanwhile."""

    def __init__(
        self, store: Store, source: ActiveSource, health: Health, *, gap: float, lease_seconds: float, discover: bool
    ) -> None:
        """`gap` is in seconds, between two readings; with `discover`, every listed job is tracked."""
        self._store = store
        self._source = source
        self._health = health
        self._gap = gap
        self._lease_seconds = lease_seconds
        self._discover = discover
        self._has_read_all = False
        self._unlisted: set[str] = set()
        """Tracked jobs that were not in the list when it was last read to its end.

        A pass that is not full reads no further pages to find them.
        """
        self._rejected: set[bytes] = set()
        """The keys of the rejects of the last reading. They are not counted and logged again."""
        self._failures = 0
        self._requests = 0
        """The number of requests of the last reading."""
        self._silent_until = 0.0
        """The list is not read before this time, on the event loop's clock.

        It is set if the key of this daemon may not read the list. The key of another daemon may be allowed to.
        """
        self._client = source.client

    async def tick(self, *, due_or_not: bool = False) -> None:
        """Read the job list if it is due. Failures are logged, not raised."""
        now = asyncio.get_running_loop().time()
        if self._client is not self._source.client:  # there is a new key
            self._client, self._silent_until = self._source.client, 0.0
        if (self._source.attribution.is_silent(now) or now < self._silent_until) and not due_or_not:
            return
        try:
            with self._health.unit("job list"):
                await self._read(due_or_not=due_or_not)
        except DatabaseUnavailableError:
            return

    async def _read(self, *, due_or_not: bool) -> None:
        started = asyncio.get_running_loop().time()
        deadline = started + LIST_SHARE * self._lease_seconds
        claimed = await self._store.claim_job_list(
            self._source.key, self._lease_seconds, self._next_gap(), due_or_not=due_or_not
        )
        for lease in claimed:
            error, whole, self._requests = None, False, 0
            try:
                whole = await self._pass(lease, deadline, full=lease.full_pass or not self._has_read_all)
                self._has_read_all = self._has_read_all or whole
                self._failures, self._silent_until = 0, 0.0
                self._attribute(None)
                if lease.source_may_recover or self._source.is_marked:
                    await store_recovery(self._store, [self._source])
            except ApiError as e:
                error = e.failure.message
                await self._record_failure(lease, started, e.failure)
            finally:  # also if cancelled, so that other daemons can claim the list
                await self._store.finish_job_list(lease, self._next_gap(), whole=whole, error=error)

    def _next_gap(self) -> float:
        """Return the seconds to the next reading, or 0 if another daemon may try its key at once."""
        now = asyncio.get_running_loop().time()
        return 0.0 if now < self._silent_until else self._failure_gap()

    def _failure_gap(self) -> float:
        """Return the seconds between readings: doubled by each failure, and long enough for the rate limit."""
        rate_limited_gap = self._requests * (self._source.request_interval or 0) / RATE_SHARE
        return max(min(self._gap * 2.0 ** min(self._failures, 30), max(LONGEST_GAP, self._gap)), rate_limited_gap)

    async def _pass(self, lease: JobListLease, deadline: float, *, full: bool) -> bool:
        """Read the list page by page.

        It is read to its end or, if not `full`, until every unfinished job was seen and a page has no new job.

        Returns whether the list was read to its end.
        """
        source = self._source
        found = await self._store.find_unfinished_jobs(source.key, list(ENDED_STATUSES))
        unfinished = found.keys() - (set() if full else self._unlisted)
        limiter = RateLimiter(self._store, source.key, source.request_interval, paid=0)
        known, self._rejected = self._rejected, set()
        async with aclosing(source.client.list_jobs(deadline, limiter.wait)) as pages:
            async for items in pages:
                self._requests += 1
                REQUESTS.labels(source.name).inc()
                page = read_jobs(items, source.client.holds_secret)
                ids = [record.id for record in page.records]
                discovered = await self._store.discover(source.key, ids) if self._discover else 0
                saved = await save_job_records(self._store, lease, page, known | self._rejected)
                self._report_rejects(saved.rejects, known)
                if discovered or saved.statuses:
                    log.info("job_list.changed", source=source.name, discovered=discovered, statuses=saved.statuses)
                if listed := [job_id for job_id in ids if found.get(job_id)]:  # missing, according to polls
                    await self._store.record_listed(lease, listed)
                unfinished.difference_update(ids)
                if not (full or unfinished or discovered):
                    return False
        self._unlisted = unfinished
        return True

    def _report_rejects(self, rejects: Sequence[Reject], known: AbstractSet[bytes]) -> None:
        """Count and log the rejects of a page that are not known from the last reading or an earlier page."""
        new = [reject for reject in rejects if reject.key not in known | self._rejected]
        self._rejected.update(reject.key for reject in rejects)
        if new:
            REJECTS.labels(self._source.name).inc(len(new))
            jobs = [reject.id for reject in new if reject.id][:LOGGED_JOBS]
            log.warning("job_list.rejected", source=self._source.name, items=len(new), jobs=jobs, reason=new[0].reason)

    async def _record_failure(self, lease: JobListLease, started: float, failure: Failure) -> None:
        if not self._failures:
            error_class = failure.error_class
            log.warning("job_list.failed", source=self._source.name, error_class=error_class, error=failure.message)
        self._failures += 1
        self._source.login_refused |= failure.refuses_login
        now = asyncio.get_running_loop().time()
        if failure.error_class in {ErrorClass.REFUSED, ErrorClass.FORBIDDEN}:
            # This may concern the job list only: the key may be valid for polls.
            self._silent_until = now + self._failure_gap()
        if failure.error_class is ErrorClass.REFUSED or now > started + self._lease_seconds:
            return  # a refused key may be valid for polls; or this process was suspended
        if is_pause(failure):
            if not self._source.attribution.is_refused_alone(JOB_LIST, failure, now):
                await self._store.pause_source(self._source.key, pause_seconds(failure), failure.message)
        elif lease.was_read or failure.error_class in SOURCE_FAILURES:  # otherwise the provider may have no job list
            self._attribute(failure)
            await store_failure(self._store, self._source)

    def _attribute(self, failure: Failure | None) -> None:
        """Record what a reading, or its failure, says about the source."""
        self._source.attribution.record_job_list(failure, asyncio.get_running_loop().time())
        self._health.record_source(self._source.name, self._source.attribution)
