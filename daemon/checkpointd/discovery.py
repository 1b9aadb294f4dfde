"""The second ring: the job list of each source, in bulk: what became of tracked jobs, and, if asked for, jobs to track.

One page tells the status of a hundred jobs, so that no job is ever asked for alone.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from checkpointd import observe, queries
from checkpointd.api import ApiError
from checkpointd.failures import OF_SOURCE, ErrorClass, Failure
from checkpointd.jobs import read_jobs, save_jobs
from checkpointd.observe import log
from checkpointd.outbox import note_trouble
from checkpointd.service import Service
from checkpointd.store import UNAVAILABLE, Store

LIST_SHARE: Final = 0.75
"""A reading must end within this share of its lease."""

LONGEST_GAP: Final = 900.0
"""Seconds until a job list that cannot be read is tried again."""


class Discovery:
    """Reads job lists. A lease on the source's row keeps replicas from reading one at the same time."""

    def __init__(
        self, store: Store, services: Sequence[Service], *, gap: float, lease_seconds: float, discover: bool
    ) -> None:
        self._store = store
        self._services = {service.key: service for service in services}
        self._gap = gap
        self._lease_seconds = lease_seconds
        self._discover = discover
        self._read_through: set[int] = set()
        self._failures: dict[int, int] = {}

    async def tick(self, *, due_or_not: bool = False) -> None:
        """Read the job lists that are due, all at once. Failures are noted, not raised."""
        loop = asyncio.get_running_loop()
        # A refused key is probed by the polls; the job list waits for them.
        sources = [key for key, service in self._services.items() if due_or_not or not service.refusal]
        deadline = loop.time() + LIST_SHARE * self._lease_seconds
        try:
            leases = await self._store.fetch(queries.CLAIM_JOB_LISTS, sources, self._lease_seconds, due_or_not)
        except UNAVAILABLE as e:
            observe.database(e)
            return
        async with asyncio.TaskGroup() as group:
            for lease in leases:
                group.create_task(
                    self._read(self._services[lease["source"]], lease["lease_token"], deadline, full=lease["full_pass"])
                )

    async def _read(self, service: Service, token: int, deadline: float, *, full: bool) -> None:
        """Read one source's job list as far as needed: to its end at start and daily, else until all are told."""
        error = None
        whole = False
        try:
            whole = await self._pass(service, deadline, full=full or service.key not in self._read_through)
            self._failures.pop(service.key, None)
        except ApiError as e:
            error = e.failure.message
            if service.key not in self._failures:
                log.warning("job_list.failed", source=service.name, error_class=e.failure.error_class, error=error)
            self._failures[service.key] = self._failures.get(service.key, 0) + 1
            await self._heed(service, e.failure)
        except UNAVAILABLE as e:
            observe.database(e)
            return  # the lease runs out by itself
        if whole:
            self._read_through.add(service.key)
        gap = min(self._gap * 2 ** self._failures.get(service.key, 0), max(LONGEST_GAP, self._gap))
        try:
            await self._store.fetch(queries.FINISH_JOB_LIST, service.key, token, gap, whole, error)
        except UNAVAILABLE as e:
            observe.database(e)

    async def _heed(self, service: Service, failure: Failure) -> None:
        """Let the polls of the source know what befell its job list, if it will befall them, too."""
        if failure.error_class is ErrorClass.REFUSED:
            service.refuse(failure, asyncio.get_running_loop().time())
        if failure.error_class in OF_SOURCE:
            try:
                await note_trouble(self._store, service.key, failure)
            except UNAVAILABLE as e:
                observe.database(e)

    async def _pass(self, service: Service, deadline: float, *, full: bool) -> bool:
        """Read page after page. Returns whether the list's end was reached."""
        unfinished = {row["id"] for row in await self._store.fetch(queries.FIND_UNFINISHED_JOBS, service.key)}
        async with aclosing(service.client.list_jobs(deadline)) as pages:
            async for items in pages:
                observe.REQUESTS.labels(service.name).inc()
                if service.emission:
                    await self._store.charge_sources({service.key: 1}, {service.key: service.emission})
                records = read_jobs(items)
                if self._discover and (
                    found := await self._store.track(service.key, [r.id for r in records], "discovery")
                ):
                    log.info("job_list.discovered", source=service.name, jobs=found)
                if moved := await save_jobs(self._store, service.key, records):
                    log.info("job_list.statuses_changed", source=service.name, jobs=moved)
                unfinished.difference_update(r.id for r in records)
                if not full and not unfinished and not (self._discover and found):
                    return False
        return True
