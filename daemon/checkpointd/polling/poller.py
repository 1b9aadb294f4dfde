"""Tick and poll: the story of a poll, top-down.

- tick claims as many due jobs as its sources have room for, and starts a poll for each
- poll lists one job's checkpoints, judges what was listed, and hands it to the outbox, which saves it
- judge reads the listing, says whether it can be believed and when to look again
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from checkpointd.domain.cadence import Bounds
from checkpointd.domain.failure import OF_SOURCE, ErrorClass, Failure
from checkpointd.domain.poll import judge
from checkpointd.polling.budget import turns
from checkpointd.polling.save_queue import Finished, Outbox, Report
from checkpointd.polling.source import Claim, Service
from checkpointd.postgres.connection import UNAVAILABLE
from checkpointd.postgres.save import release
from checkpointd.postgres.store import Job, Lease, Store, see_through
from checkpointd.provider.client import Pages
from checkpointd.telemetry import logs as observe
from checkpointd.telemetry.logs import log

POLL_SHARE: Final = 0.75
"""A poll must end within this share of its lease; the rest is for its save."""

DRAIN_SHARE: Final = 0.5
SAVED_SHARE: Final = 0.7
"""Of the time to drain, polls under way have so much to end, and what they found so much to be saved."""

LAST_SAVE_SECONDS: Final = 1.0
"""But the last save has so long at least: it gives back, too, what was cut short."""

TICK_SECONDS: Final = 33.0
"""Three intervals, and what a claim may take while the database hangs, to connect and until its deadline."""

LATE_SECONDS: Final = 5.0
"""A poll ends with its deadline, before its lease; whoever was asleep meanwhile may be so much late."""

SAVE_SECONDS: Final = 300.0
"""A save has many statements, each with a deadline of its own; after so long it hangs."""

HELD_SECONDS: Final = 0.25
"""How often `poll_named` looks again at jobs that another daemon is polling."""


class Poller:
    """Polls the jobs of some sources. Made by polling()."""

    def __init__(self, store: Store, services: Sequence[Service], bounds: Bounds, lease_seconds: float, outbox: Outbox,
                 group: asyncio.TaskGroup) -> None:  # fmt: skip
        self._store = store
        self._services = {service.key: service for service in services}
        self._bounds = bounds
        self._lease_seconds = lease_seconds
        self._outbox = outbox
        self._group = group
        self._workers: set[asyncio.Task[None]] = set()
        self._wants_more = False
        self._ticked_at = asyncio.get_running_loop().time()
        self._asking: dict[int, float] = {}
        """Jobs whose provider is being asked, and when their leases end."""
        self.bell = asyncio.Event()
        """Rung when a tick is worth while: by the metronome, or by a slot that a waiting job can have."""

    async def tick(self) -> int:
        """Claim due jobs and start their polls. Returns how many; 0 too where the database is away."""
        observe.LAST_TICK.set_to_current_time()
        try:
            return await self._tick()
        finally:
            self._ticked_at = asyncio.get_running_loop().time()

    def stuck(self) -> str | None:
        """Say what does not go on any more, though it should even while the database or a provider is away."""
        now = asyncio.get_running_loop().time()
        if now - self._ticked_at > TICK_SECONDS:
            return f"no tick has ended for {now - self._ticked_at:.0f} s"
        if self._asking and (late := now - min(self._asking.values())) > LATE_SECONDS:
            return f"a poll has outlived its lease by {late:.0f} s"
        if (saving := self._outbox.busy_seconds) > SAVE_SECONDS:
            return f"a save has been under way for {saving:.0f} s"
        return None

    async def _tick(self) -> int:
        loop = asyncio.get_running_loop()
        rooms = {s.key: room for s in self._services.values() if (room := s.room(loop.time())).slots}
        if not rooms:
            return 0
        claimed_before = loop.time()
        try:
            leases = await self._claim(self._store.claim_due_jobs(rooms, self._lease_seconds))
        except UNAVAILABLE as e:
            observe.database("claim", e)
            return 0
        observe.database("claim", None)
        self._wants_more = len(leases) >= min(room.slots for room in rooms.values())
        self._start(leases, claimed_before)
        return len(leases)

    async def poll_named(self, jobs: Iterable[Job]) -> list[Job]:
        """Poll these jobs now, due or not. Waits at most one lease for those that others hold; returns what is left."""
        loop = asyncio.get_running_loop()
        pending = {job.key: job for job in jobs if job.source in self._services}
        emissions = {s.key: s.emission for s in self._services.values() if s.emission}
        # A held job is free after a lease at most; with a budget it may take as long until a request is allowed.
        waiting = self._lease_seconds + 2 * max(emissions.values(), default=0)
        patience = loop.time() + waiting
        left: list[Job] = []
        self._wants_more = True
        while pending:
            if troubled := {service.key for service in self._services.values() if service.trouble}:
                left += [job for job in pending.values() if job.source in troubled]
                pending = {key: job for key, job in pending.items() if job.source not in troubled}
            self.bell.clear()
            claimed_before = loop.time()
            batch = self._affordable(pending.values())
            try:
                leases = await self._claim_named(batch, emissions) if batch else []
            except UNAVAILABLE:
                if loop.time() > patience:
                    raise
                leases = []
            _move_to_the_end(pending, batch, {lease.job for lease in leases})
            self._start(leases, claimed_before)
            if leases or self._workers:
                patience = loop.time() + waiting
            elif loop.time() > patience:
                break
            if pending:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HELD_SECONDS):
                        await self.bell.wait()
        while self._workers:
            await asyncio.wait(self._workers)
        return [*left, *pending.values()]

    async def _claim_named(self, jobs: Sequence[Job], emissions: Mapping[int, float]) -> list[Lease]:
        return await self._claim(self._store.claim_named_jobs(jobs, emissions, self._lease_seconds))

    async def _claim(self, claim: Awaitable[list[Lease]]) -> list[Lease]:
        return await see_through(claim, lambda leases: release(self._store, leases))

    def _affordable(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the first of these jobs for which their sources have room."""
        now = asyncio.get_running_loop().time()
        rooms = {service.key: service.room(now).slots for service in self._services.values()}
        chosen = []
        for job in jobs:
            if rooms[job.source] > 0:
                rooms[job.source] -= 1
                chosen.append(job)
            elif not any(rooms.values()):
                break
        return chosen

    def _start(self, leases: Sequence[Lease], claimed_before: float) -> None:
        """Hand claimed jobs to the workers of their sources: as many as requests may be under way at once."""
        poll_by, save_by = claimed_before + POLL_SHARE * self._lease_seconds, claimed_before + self._lease_seconds
        for lease in leases:
            service = self._services[lease.source]
            service.begin(Claim(lease, poll_by, save_by))
            if service.workers < service.concurrency:
                service.workers += 1
                worker = self._group.create_task(self._work(service))
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    async def _work(self, service: Service) -> None:
        """Poll one waiting job after the other, as long as there are any."""
        try:
            while service.waiting:
                claim = service.waiting.popleft()
                try:
                    finished = await self._poll(claim, service)
                    await self._outbox.put(finished)
                finally:
                    service.end(claim)
                    if self._wants_more and service.hungry:
                        self.bell.set()
        finally:
            service.workers -= 1

    async def _poll(self, claim: Claim, service: Service) -> Finished:
        """Poll one job. Whatever happens becomes a result: an exception here would end every other poll."""
        started = asyncio.get_running_loop().time()
        if service.is_silent(started):
            return Finished(claim, service, None, service.trouble, 0)
        if started >= claim.poll_by:
            return Finished(claim, service, None, None, 0)
        self._asking[claim.lease.job] = claim.save_by
        try:
            turn = turns(self._store, service.key, service.emission, paid=1)
            pages = await service.client.list_checkpoints(claim.lease.id, claim.poll_by, turn)
            finished = self._judge(claim, service, pages)
        except asyncio.CancelledError:
            self._outbox.put_now(Finished(claim, service, None, None, 0))
            raise
        except Exception:  # noqa: BLE001  # a bug of ours costs this poll, not the daemon
            log.exception("poll.crashed", source=service.name, job=claim.lease.id)
            failure = Failure(ErrorClass.INTERNAL, "a fault of checkpointd itself: see its log")
            finished = self._judge(claim, service, Pages([], failure, 1))
        finally:
            self._asking.pop(claim.lease.job, None)
        observe.POLL_SECONDS.observe(asyncio.get_running_loop().time() - started)
        return finished

    def _judge(self, claim: Claim, service: Service, pages: Pages) -> Finished:
        """Decide what a listing means for its job and its source."""
        failure = pages.failure
        if failure and failure.status == HTTPStatus.FORBIDDEN and service.well:
            # The key is good for other jobs: so this one alone is out of bounds.
            # A second one in a row says something else.
            service.well = False
            pages = pages._replace(failure=dataclasses.replace(failure, error_class=ErrorClass.FORBIDDEN))
            failure = pages.failure
        of_source = failure if failure and failure.error_class in OF_SOURCE else None
        if of_source:
            service.suffer(of_source, asyncio.get_running_loop().time())
        elif failure is None:
            service.accept(asyncio.get_running_loop().time())
        observe.source(service.name, service.trouble)
        if of_source and not pages.items:
            return Finished(claim, service, None, of_source, pages.requests)
        poll = judge(claim.lease, pages, self._bounds, service.client.holds_secret)
        return Finished(claim, service, poll, of_source, pages.requests)

    def cut_short(self) -> None:
        """Cut the polls under way short; their jobs are given back."""
        for worker in list(self._workers):
            worker.cancel()

    async def drain(self, seconds: float) -> None:
        """Give back what waits; let polls under way end, for so long, then cut them short."""
        for service in self._services.values():
            while service.waiting:
                claim = service.waiting.popleft()
                self._outbox.put_now(Finished(claim, service, None, None, 0))
                service.end(claim)
        if self._workers:
            await asyncio.wait(self._workers, timeout=seconds)
        self.cut_short()
        if self._workers:
            await asyncio.wait(self._workers)


def _move_to_the_end(pending: dict[int, Job], tried: Iterable[Job], taken: set[int]) -> None:
    """Drop the jobs that were taken, and let those that are held hold up nobody."""
    for job in tried:
        del pending[job.key]
        if job.key not in taken:
            pending[job.key] = job


@asynccontextmanager
async def polling(
    store: Store, services: Sequence[Service], bounds: Bounds, lease_seconds: float, drain_seconds: float,
    report: Report | None = None,
) -> AsyncIterator[Poller]:  # fmt: skip
    """Open a poller; leaving drains it: polls end or are given back, and everything finished is saved."""
    outbox = Outbox(store, report)
    try:
        async with asyncio.TaskGroup() as group:
            saver = group.create_task(outbox.run())
            poller = Poller(store, services, bounds, lease_seconds, outbox, group)
            try:
                yield poller
            finally:
                loop = asyncio.get_running_loop()
                saved_by = loop.time() + SAVED_SHARE * drain_seconds
                await poller.drain(DRAIN_SHARE * drain_seconds)
                outbox.close(max(saved_by, loop.time() + LAST_SAVE_SECONDS))
                await saver
    except ExceptionGroup as e:
        raise e.exceptions[0] from None  # what the caller raised, or else a bug of ours
