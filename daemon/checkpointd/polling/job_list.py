"""The second ring: a source's job list, in bulk: what became of tracked jobs, and, if asked for, jobs to track.

One page tells the status of a hundred jobs, so that no job is ever asked for alone.
"""

import asyncio
from contextlib import aclosing
from typing import Final

import asyncpg

from checkpointd.domain.cadence import ENDED
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.polling.budget import turns
from checkpointd.polling.save_queue import note_trouble
from checkpointd.polling.source import Service
from checkpointd.postgres import queries
from checkpointd.postgres.connection import UNAVAILABLE
from checkpointd.postgres.job_records import read_jobs, save_jobs
from checkpointd.postgres.store import RESCUE_SECONDS, Store, see_through
from checkpointd.provider.client import ApiError
from checkpointd.telemetry import logs as observe
from checkpointd.telemetry.logs import log

LIST_SHARE: Final = 0.75
"""A reading must end within this share of its lease."""

LONGEST_GAP: Final = 900.0
"""Seconds until a job list that cannot be read is tried again."""

BUDGET_SHARE: Final = 0.5
"""Of a source's budget its job list takes so much at most: the rest is for polls."""


class Discovery:
    """Reads the job list of one source. A lease on the source's row keeps replicas from reading it at the same time."""

    def __init__(self, store: Store, service: Service, *, gap: float, lease_seconds: float, discover: bool) -> None:
        self._store = store
        self._service = service
        self._gap = gap
        self._lease_seconds = lease_seconds
        self._discover = discover
        self._read_through = False
        self._unlisted: set[str] = set()
        """Jobs that the last full pass did not show: no reason to read on to the end each time."""
        self._failures = 0
        self._requests = 0
        """Of the last reading."""
        self._silent_until = 0.0
        """On the loop's clock: this daemon's key may not read the list, others' may."""

    async def tick(self, *, due_or_not: bool = False) -> None:
        """Read the job list if it is due. Failures are noted, not raised."""
        now = asyncio.get_running_loop().time()
        if (self._service.is_silent(now) or now < self._silent_until) and not due_or_not:
            return
        try:
            await self._read(due_or_not=due_or_not)
        except UNAVAILABLE as e:
            observe.database("job list", e)
        else:
            observe.database("job list", None)

    async def _read(self, *, due_or_not: bool) -> None:
        deadline = asyncio.get_running_loop().time() + LIST_SHARE * self._lease_seconds
        for lease in await self._claim(due_or_not=due_or_not):
            error, whole, self._requests = None, False, 0
            try:
                whole = await self._pass(
                    lease["lease_token"], deadline, full=lease["full_pass"] or not self._read_through
                )
                self._read_through = self._read_through or whole
                self._failures, self._silent_until = 0, 0.0
                if lease["troubled"] and not self._service.refusals:  # a key may be good for the list alone
                    await self._store.accept_sources([self._service.key])
            except ApiError as e:
                error = e.failure.message
                await self._fail(e.failure)
            finally:  # cut short, too, the list is free for others
                await self._finish(lease, whole=whole, error=error)

    async def _claim(self, *, due_or_not: bool) -> list[asyncpg.Record]:
        """Lease the list if it is due."""

        async def give_back(leases: list[asyncpg.Record]) -> None:
            for lease in leases:
                await self._finish(lease, whole=False, error=None)

        claim = self._store.fetch(queries.CLAIM_JOB_LISTS, [self._service.key], self._lease_seconds, due_or_not)
        return await see_through(claim, give_back)

    async def _finish(self, lease: asyncpg.Record, *, whole: bool, error: str | None) -> None:
        now = asyncio.get_running_loop().time()
        gap = 0.0 if now < self._silent_until else self._next_gap()
        task = asyncio.current_task()
        finish = self._store.fetch(queries.FINISH_JOB_LIST, self._service.key, lease["lease_token"], gap, whole, error)
        async with asyncio.timeout(RESCUE_SECONDS if task and task.cancelling() else None):
            await see_through(finish)

    def _next_gap(self) -> float:
        affordable = self._requests * (self._service.emission or 0) / BUDGET_SHARE
        return max(min(self._gap * 2.0 ** min(self._failures, 30), max(LONGEST_GAP, self._gap)), affordable)

    async def _pass(self, lease_token: int, deadline: float, *, full: bool) -> bool:
        """Read page after page: to the list's end, or, if not `full`, until all is told. Returns whether to the end."""
        source = self._service.key
        unfinished = {row["id"] for row in await self._store.fetch(queries.FIND_UNFINISHED_JOBS, source, list(ENDED))}
        unfinished -= set() if full else self._unlisted
        turn = turns(self._store, source, self._service.emission, paid=0)
        async with aclosing(self._service.client.list_jobs(deadline, turn)) as pages:
            async for items in pages:
                self._requests += 1
                observe.REQUESTS.labels(self._service.name).inc()
                records = read_jobs(items, self._service.client.holds_secret)
                found = await self._store.discover(source, [r.id for r in records]) if self._discover else 0
                moved = await save_jobs(self._store, source, lease_token, records)
                if found or moved:
                    log.info("job_list.changed", source=self._service.name, discovered=found, statuses=moved)
                unfinished.difference_update(r.id for r in records)
                if not (full or unfinished or found):
                    return False
        self._unlisted = unfinished
        return True

    async def _fail(self, failure: Failure) -> None:
        if not self._failures:
            kind = failure.error_class
            log.warning("job_list.failed", source=self._service.name, error_class=kind, error=failure.message)
        self._failures += 1
        if failure.error_class in {ErrorClass.REFUSED, ErrorClass.FORBIDDEN}:
            self._silent_until = asyncio.get_running_loop().time() + self._next_gap()
        if failure.error_class in {ErrorClass.THROTTLED, ErrorClass.QUOTA}:
            # What befalls the list befalls the polls, too. Not so a refusal: a key may be good for them alone.
            await note_trouble(self._store, self._service.key, failure)
