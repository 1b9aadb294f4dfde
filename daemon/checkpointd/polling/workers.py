"""Poll the claimed jobs of the sources, and hand the results to the save queue.

Each source has workers, which poll its waiting jobs one after the other. A poll runs as soon as a slot is free
(slots.py). Slots also become free by time alone: while all are taken, they are looked at again and again.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Final

from checkpointd.domain.attribution import Verdict
from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.listing import RawListing
from checkpointd.domain.poll import evaluate
from checkpointd.polling.save_queue import FinishedPoll, SaveQueue
from checkpointd.polling.slots import RunningPoll
from checkpointd.polling.source import ActiveSource, Claim, RateLimiter
from checkpointd.postgres.store import Store
from checkpointd.provider import heavy_work
from checkpointd.provider.client import Client
from checkpointd.provider.memory import ListMemory
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

LOOK_SECONDS: Final = 0.25
"""The longest interval at which the slots of a source are looked at while all are taken."""


class Workers:
    """The workers of all sources. `wake` is set when a claim is worth its cost."""

    def __init__(
        self,
        store: Store,
        cadence: CadenceSettings,
        queue: SaveQueue,
        health: Health,
        group: asyncio.TaskGroup,
        wake: asyncio.Event,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._cadence = cadence
        self._queue = queue
        self._health = health
        self._group = group
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[str] = set()
        """The names of the sources whose slots are looked at while all are taken."""
        self._listing: dict[RunningPoll, float] = {}
        """The polls that are listing checkpoints, and when their leases expire."""

    def __len__(self) -> int:
        return len(self._tasks)

    def late_seconds(self) -> float:
        """Return for how long a poll has outlived its lease, or 0."""
        now = self._loop.time()
        return max(now - min(self._listing.values(), default=now), 0.0)

    async def idle(self) -> None:
        """Wait until no poll is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def release_waiting(self, source: ActiveSource) -> None:
        """Release the claimed jobs of a source whose polls have not started."""
        for claim in source.take_back():
            self._queue.put_now(FinishedPoll(claim, source, None, None, 0))
            source.finish(claim)

    async def drain(self, sources: Iterable[ActiveSource], seconds: float) -> None:
        """Release the waiting jobs, let the running polls end within `seconds`, then cancel the rest."""
        for source in sources:
            self.release_waiting(source)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        self.cancel()
        await self.idle()

    def cancel(self) -> None:
        """Cancel the running polls; their jobs are released."""
        for task in list(self._tasks):
            task.cancel()

    def start(self, source: ActiveSource) -> None:
        """Start as many workers as there are slots for the claimed jobs. If all are taken, look again later."""
        now = self._loop.time()
        if source.waiting:
            self._make_room(source, now)
        starting = source.workers - source.slots.running
        for _ in range(len(source.tests) + min(len(source.waiting), source.slots.room(now)) - starting):
            source.workers += 1
            task = self._group.create_task(self._work(source))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if source.name not in self._looking and source.slots.running >= source.concurrency:
            self._looking.add(source.name)
            self._loop.call_later(min(source.slots.quick_seconds / 2, LOOK_SECONDS), self._look, source)

    def _make_room(self, source: ActiveSource, now: float) -> None:
        """Cut polls off, if too few can start."""
        for poll in source.slots.make_room(now):
            poll.cut_off.reschedule(now)

    def _look(self, source: ActiveSource) -> None:
        """Use the slots of a source that have become free by time: for the jobs that wait, and those that are due."""
        self._looking.discard(source.name)
        now = self._loop.time()
        if source.has_more:
            self._make_room(source, now)
        self.start(source)
        if source.wants_jobs(now) or ((source.waiting or source.has_more) and source.slots.may_test(now)):
            self._wake.set()

    async def _work(self, source: ActiveSource) -> None:
        """Poll the claimed jobs of a source, one after the other, while there are slots."""
        try:
            while claim := source.take(self._loop.time()):
                poll = source.slots.start(claim.lease.job, self._loop.time())
                self.start(source)
                try:
                    await self._queue.put(await self._poll(claim, source, poll))  # no variable keeps a large result
                finally:
                    source.slots.finish(poll)
                    source.finish(claim, was_read=poll.was_read)
                    if source.wants_jobs(self._loop.time()):
                        self._wake.set()
        finally:
            source.workers -= 1

    async def _poll(self, claim: Claim, source: ActiveSource, poll: RunningPoll) -> FinishedPoll:
        """Poll one job. A failure becomes a result, because an exception would cancel all other polls."""
        started = self._loop.time()
        if source.is_silent(started):
            return FinishedPoll(claim, source, None, source.attribution.failure, 0)
        if started >= claim.poll_by:
            return FinishedPoll(claim, source, None, None, 0)
        client = source.client
        memory = client.memory()
        try:
            self._listing[poll] = claim.save_by
            try:
                raw = await self._list(claim, source, client, poll, memory)
            finally:
                self._listing.pop(poll, None)
            finished = await self._evaluate(claim, source, client, raw, started)
        except asyncio.CancelledError:
            self._queue.put_now(FinishedPoll(claim, source, None, None, 0))
            raise
        except Exception:  # noqa: BLE001  # an error of checkpointd itself must end this poll only, not the daemon
            log.exception("poll.crashed", source=source.name, job=claim.lease.id)
            failure = Failure(ErrorClass.INTERNAL, "an error of checkpointd itself: see its log")
            finished = await self._evaluate(claim, source, client, RawListing([], failure, 1), started)
        finally:
            memory.free()
        metrics.POLL_SECONDS.observe(self._loop.time() - started)
        return finished

    async def _list(
        self, claim: Claim, source: ActiveSource, client: Client, poll: RunningPoll, memory: ListMemory
    ) -> RawListing:
        """List the checkpoints of a job. If it has failed before, its back-off is the retry."""
        limiter = RateLimiter(self._store, source.key, source.request_interval, paid=1)

        async def wait(deadline: float) -> None:
            poll.sent = math.inf
            await limiter.wait(deadline)
            poll.sent = self._loop.time()

        lease, was_read = claim.lease, False
        try:
            raw = await client.list_checkpoints(
                lease.id, claim.poll_by, wait, retry_first=lease.failures == 0, known=lease.digest,
                cut_off=poll.cut_off, memory=memory,
            )  # fmt: skip
            was_read = raw.failure is None
        finally:
            source.slots.end(poll, self._loop.time(), was_read=was_read)
        return raw

    async def _evaluate(
        self, claim: Claim, source: ActiveSource, client: Client, raw: RawListing, started: float
    ) -> FinishedPoll:
        """Evaluate a listing, for its job and for its source."""
        lease, failure, now = claim.lease, raw.failure, self._loop.time()
        if failure and failure.refuses_login:
            if client is not source.client:  # an old key was refused, and there is a new one now
                return FinishedPoll(claim, source, None, failure, raw.requests)
            source.login_refused = True
        elif failure is None:
            source.login_refused = False
        verdict = Verdict()
        if failure is None or now < claim.save_by:  # a later failure is that of a process that was suspended
            known_failures = 0 if lease.source_not_ok else lease.failures
            verdict = source.attribution.record_poll(
                lease.job,
                failure,
                now,
                has_pages=bool(raw.pages),
                started=started,
                known_failures=known_failures,
            )
            self._health.record_source(source.name, source.attribution)
        of_source = None if verdict.blames_job else failure
        if of_source and not raw.pages:
            return FinishedPoll(claim, source, None, of_source, raw.requests)
        args = (lease, raw, self._cadence, client.holds_secret, verdict, source.cadence)
        if raw.size <= heavy_work.LARGE_BYTES:
            result = evaluate(*args)
        else:
            await self._queue.room()
            result = await heavy_work.run(evaluate, *args)
        return FinishedPoll(claim, source, result, of_source, raw.requests)
