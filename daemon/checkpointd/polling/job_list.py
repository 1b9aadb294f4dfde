"""Read a source's job list: the statuses of tracked jobs in bulk, and, if configured, new jobs to track.

A page has the statuses of a hundred jobs, so no job needs a request of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from checkpointd.domain.attribution import JOB_LIST
from checkpointd.domain.failure import JOB_FAILURES, SOURCE_FAILURES, ErrorClass, Failure, is_pause, pause_seconds
from checkpointd.domain.job import ENDED_STATUSES, JobRecord, read_jobs
from checkpointd.domain.job_filter import ALL_JOBS, JobFilter
from checkpointd.domain.job_list import HEAD_PAGES, RATE_SHARE, REQUEST_SHARE, is_pass_due, reading_limits
from checkpointd.domain.reading import RawItem, Reject
from checkpointd.polling.read_ahead import Pages, read_ahead
from checkpointd.polling.source import ActiveSource, RateLimiter, store_failure, store_recovery
from checkpointd.postgres import job_lists
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.job_lists import JobListLease
from checkpointd.postgres.job_records import save_job_records
from checkpointd.postgres.store import Store
from checkpointd.provider import heavy_work
from checkpointd.provider.http import ApiError
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import LOGGED_JOBS, REJECTS, REQUESTS

LONGEST_GAP: Final = 300.0
"""Seconds. After failures a job list is tried again after this time at most, or after its own gap if that is longer."""

RESTART_FAILURES: Final = 3
"""A pass starts again if it fails so many times in a row at one cursor: after another job there may be no failure."""

MOST_UNFINISHED: Final = 1000
"""The most unfinished jobs that are looked for in the head of the list."""


class JobList:
    """The job list of one source. A lease on the source's row prevents other daemons from reading it meanwhile."""

    def __init__(
        self, store: Store, source: ActiveSource, health: Health, *,
        gap: float, lease_seconds: float, max_new_jobs: int | None, job_filter: JobFilter = ALL_JOBS,
    ) -> None:  # fmt: skip
        """`gap` is in seconds, between two readings.

        `max_new_jobs` that pass `job_filter` are tracked per day: 0 without discovery. With None all of them are, as if
        a person had named each.
        """
        self._store = store
        self._source = source
        self._health = health
        self._gap = gap
        self._lease_seconds = lease_seconds
        self._max_new_jobs = max_new_jobs
        self._filter = job_filter
        self.error: str | None = None
        """Why the last reading failed, or None."""
        self._left_out = False
        """True if new jobs were left out since the last pass ended."""
        self._is_limited = False
        """True if new jobs were left out since the last pass began, which was logged."""
        self._not_found: set[str] = set()
        """Unfinished jobs that were not in the head of the list: it is not read further for them until a pass ends."""
        self._rejected: dict[bytes, bool] = {}
        """The keys of the rejects of the last pass, which are not counted and logged again.

        The value is true if the reject was read since that pass ended. After a restore they are stored again.
        """
        self._restores = source.restores
        self._failures_here = 0
        """Failures in a row of the pass at its present cursor, except those that pause the source."""
        self._failures = 0
        self._requests = 0
        """The number of requests of the last reading."""
        self._silent_until = 0.0
        """The list is not read before this time, on the event loop's clock.

        It is set if the key of this daemon may not read the list. The key of another daemon may be allowed to.
        """
        self._client = source.client

    async def tick(self, *, due_or_not: bool = False) -> bool | None:
        """Read the job list if it is due. Failures are logged, not raised.

        Returns whether a pass reached the end of the list, or None if the list was not read.
        """
        now = asyncio.get_running_loop().time()
        if self._client is not self._source.client:  # there is a new key
            self._client, self._silent_until = self._source.client, 0.0
        if self._restores != self._source.restores:
            self._restores = self._source.restores
            self._rejected.clear()
        is_silent = self._source.is_silent(now) or now < self._silent_until
        if not self._source.has_key or (is_silent and not due_or_not):
            return None
        try:
            with self._health.unit("job list"):
                return await self._read(due_or_not=due_or_not)
        except DatabaseUnavailableError:
            return None

    async def _read(self, *, due_or_not: bool) -> bool | None:
        started, whole = asyncio.get_running_loop().time(), None
        claimed = await job_lists.claim(
            self._store, self._source.key, self._lease_seconds, self._next_gap(), due_or_not=due_or_not
        )
        for lease in claimed:
            in_pass, self.error, self._requests = due_or_not or is_pass_due(lease.state, self._gap), None, 0
            try:
                whole = await self._read_pages(lease, started, in_pass=in_pass)
                self._failures, self._silent_until = 0, 0.0
                self._attribute(None)
                if lease.source_may_recover or self._source.is_marked:
                    await store_recovery(self._store, [self._source])
            except ApiError as e:
                in_pass, self.error = False, e.failure.message
                await self._record_failure(lease, started, e.failure)
            finally:  # also if cancelled, so that other daemons can claim the list
                gap = self._next_gap(in_pass=in_pass and not whole)
                await job_lists.finish(self._store, lease, gap, whole=whole is True, error=self.error)
        return whole

    def _next_gap(self, *, in_pass: bool = False) -> float:
        """Return the seconds to the next reading, or 0 if another daemon may try its key at once.

        With `in_pass` a pass continues as soon as the rate limit permits.
        """
        now = asyncio.get_running_loop().time()
        return 0.0 if now < self._silent_until else self._rate_limited_gap() if in_pass else self._failure_gap()

    def _failure_gap(self) -> float:
        """Return the seconds between readings: doubled by each failure, and long enough for the rate limit."""
        gap = min(self._gap * 2.0 ** min(self._failures, 30), max(LONGEST_GAP, self._gap))
        return max(gap, self._rate_limited_gap())

    def _rate_limited_gap(self) -> float:
        return self._requests * (self._source.request_interval or 0) / RATE_SHARE

    async def _read_pages(self, lease: JobListLease, started: float, *, in_pass: bool) -> bool:
        """Read the head of the list and, with `in_pass`, more of the pass. Returns whether the pass reached the end.

        A pass that begins now begins with the head.
        """
        source, state = self._source, lease.state
        limits = reading_limits(self._gap, self._lease_seconds, source.request_interval)
        limiter = RateLimiter(self._store, source.key, source.request_interval, paid=0)

        async def wait(deadline: float) -> None:
            self._requests += 1
            await limiter.wait(deadline)

        list_jobs = partial(source.client.list_jobs, started + REQUEST_SHARE * self._lease_seconds, wait)

        def is_used_up() -> bool:
            now = asyncio.get_running_loop().time()
            return now >= started + limits.seconds or self._requests >= limits.requests

        if not in_pass or state.cursor is not None:
            await self._read_head(lease, list_jobs(), is_used_up)
        if not in_pass:
            return False
        try:
            is_read = await self._continue_pass(lease, list_jobs(cursor=state.cursor, pages=state.pages), is_used_up)
        except ApiError as e:
            self._failures_here += not is_pause(e.failure)
            if e.failure.error_class in JOB_FAILURES or self._failures_here >= RESTART_FAILURES:
                await job_lists.save_cursor(self._store, lease, None, 0)
                self._forget()
            raise
        if is_read:
            self._forget()
        return is_read

    async def _read_head(self, lease: JobListLease, pages: Pages, is_used_up: Callable[[], bool]) -> None:
        """Read pages until one has no new job, and the unfinished jobs were seen or are not among the first pages."""
        unfinished = await job_lists.find_unfinished_jobs(
            self._store, lease.source, list(ENDED_STATUSES), MOST_UNFINISHED
        )
        wanted, read = unfinished - self._not_found, 0
        async with aclosing(pages):
            async for page in pages:
                ids, discovered = await self._save_page(lease, page.items)
                unfinished.difference_update(ids)
                wanted.difference_update(ids)
                read += 1
                if is_used_up() or not (discovered or (wanted and read < HEAD_PAGES)):
                    break
        self._not_found = unfinished

    async def _continue_pass(self, lease: JobListLease, pages: Pages, is_used_up: Callable[[], bool]) -> bool:
        """Read a page of a pass, or more, and save its cursor after each. Returns whether the pass reached the end."""
        read, page = lease.state.pages, None
        async with aclosing(read_ahead(pages, is_used_up)) as pages_ahead:
            async for page in pages_ahead:
                await self._save_page(lease, page.items)
                read += 1
                if page.can_resume:
                    self._failures_here = 0
                    if not await job_lists.save_cursor(self._store, lease, page.cursor, read):
                        return False
        return page is not None and page.cursor is None

    async def _save_page(self, lease: JobListLease, items: Sequence[RawItem]) -> tuple[list[str], int]:
        """Save a page. Returns the ids of its jobs, and how many of them were discovered."""
        source = self._source
        REQUESTS.labels(source.name).inc()
        wire_format = source.client.format
        page = await heavy_work.run(read_jobs, items, source.client.holds_secret, wire_format.read_record)
        ids = [record.id for record in page.records]
        discovered = 0 if self._max_new_jobs == 0 else await self._discover(lease, page.records)
        saved = await save_job_records(self._store, lease, page, self._rejected, wire_format.passing_members)
        self._report_rejects(saved.rejects)
        if discovered or saved.statuses:
            log.info("job_list.changed", source=source.name, discovered=discovered, statuses=saved.statuses)
        if saved.missing:
            await job_lists.record_listed(self._store, lease, list(saved.missing))
        return ids, discovered

    async def _discover(self, lease: JobListLease, records: Sequence[JobRecord]) -> int:
        """Track the new jobs of a page that pass the filter, as far as the budget goes. Returns how many."""
        ids = [record.id for record in records if self._filter.mismatch(record) is None]
        if self._max_new_jobs is None:
            known = {job.id for job in await self._store.find_jobs(ids, self._source.name)}
            unknown = [job_id for job_id in ids if job_id not in known]
            return await self._store.track(lease.source, unknown) if unknown else 0
        new, left_out = await job_lists.discover(self._store, lease, ids, self._max_new_jobs)
        if left_out:
            if not self._is_limited:
                reason = f"more than {self._max_new_jobs} new jobs a day (CHECKPOINTD_MAX_NEW_JOBS_PER_DAY)"
                log.warning("job_list.jobs_left_out", source=self._source.name, reason=reason)
            self._is_limited = self._left_out = True
        return new

    def _forget(self) -> None:
        """Forget, at the end of a pass, which jobs were not found, and the rejects that the pass did not read."""
        self._is_limited, self._left_out = self._left_out, False
        self._failures_here = 0
        self._not_found.clear()
        self._rejected = {key: False for key, is_recent in self._rejected.items() if is_recent}

    def _report_rejects(self, rejects: Sequence[Reject]) -> None:
        """Count and log the rejects of a page that are not known from the last pass or an earlier page."""
        new = [reject for reject in rejects if reject.key not in self._rejected]
        self._rejected.update((reject.key, True) for reject in rejects)
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
                await self._store.pause_source(
                    self._source.key, pause_seconds(failure), failure.message, asked_ago=now - started
                )
        elif lease.was_read or failure.error_class in SOURCE_FAILURES:  # otherwise the provider may have no job list
            self._attribute(failure)
            await store_failure(self._store, self._source)

    def _attribute(self, failure: Failure | None) -> None:
        """Record what a reading, or its failure, says about the source."""
        self._source.attribution.record_job_list(failure, asyncio.get_running_loop().time())
        self._health.record_source(self._source.name, self._source.attribution)
