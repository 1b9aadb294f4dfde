"""Claim due jobs, poll them, and hand the results to the save queue.

- `tick` claims as many due jobs as the sources have capacity for, and starts a poll for each.
- `_poll` lists the checkpoints of one job and evaluates the listing.
- The save queue saves the result (save_queue.py), which consumes the lease.

Four clocks are in use:

- The database's clock is used for what all daemons share: due times, leases, pauses, and all stored times.
- The event loop's clock is monotonic. It is used for what concerns this process only: deadlines, timeouts and silence.
  The deadline of a save is computed from a time before the claim, so it is not later than the end of the lease.
- The wall clock is used for the times of log lines and metrics, and by APScheduler for the ticks. The ticks continue if
  it is set back or forward (service/ticker.py).
- systemd uses its own clock for the watchdog (service/watchdog.py).
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from checkpointd.domain.attribution import SourceState, Verdict
from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import Job
from checkpointd.domain.listing import RawListing
from checkpointd.domain.poll import Lease, evaluate
from checkpointd.polling.save_queue import FinishedPoll, SaveQueue
from checkpointd.polling.source import ActiveSource, Claim, RateLimiter
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

POLL_SHARE: Final = 0.75
"""The share of a lease within which its poll must end; the rest is for the save."""

DRAIN_SHARE: Final = 0.5
"""The share of the drain time in which running polls may end; then they are cancelled."""

LONGEST_TICK_SECONDS: Final = 33.0
"""If no tick has ended for this long, the poller is stuck.

A tick can come 3 s after the last one (the ticker waits for three intervals of 1 s). If the database hangs, its claim
then takes up to 5 s to get a connection and up to 15 s for the statement. These 23 s and a margin of 10 s make 33 s.
"""

LATE_SECONDS: Final = 5.0
"""If a poll still runs this long after its lease expired, it is stuck. Only a suspended process is late at all."""

LONGEST_SAVE_SECONDS: Final = 300.0
"""If a save takes longer than this, the poller is stuck. Each statement of a save has a timeout of its own."""

HELD_SECONDS: Final = 0.25
"""The interval at which `poll_named` tries again to claim jobs that another daemon is polling."""


class Poller:
    """Polls the jobs of some sources. Made by setup.open_poller()."""

    def __init__(
        self,
        store: Store,
        sources: Sequence[ActiveSource],
        cadence: CadenceSettings,
        lease_seconds: float,
        queue: SaveQueue,
        health: Health,
        group: asyncio.TaskGroup,
    ) -> None:
        self._store = store
        self._sources = {source.key: source for source in sources}
        self._cadence = cadence
        self._lease_seconds = lease_seconds
        self.queue = queue
        self._health = health
        self._group = group
        self._workers: set[asyncio.Task[None]] = set()
        self._wants_more = False
        self._ticked_at = asyncio.get_running_loop().time()
        self._listing: dict[int, float] = {}
        """The jobs whose checkpoints are being listed, and when their leases expire."""
        self.wake = asyncio.Event()
        """Set when a tick is worth its cost: by the ticker, and when half of a source's capacity is free again."""

    async def tick(self) -> int:
        """Claim due jobs and start their polls. Returns the number of jobs; 0 if the database is unavailable."""
        metrics.LAST_TICK.set_to_current_time()
        try:
            return await self._tick()
        finally:
            self._ticked_at = asyncio.get_running_loop().time()

    async def idle(self) -> None:
        """Wait until no poll is running. Results may still wait for a save: see SaveQueue.saved()."""
        while self._workers:
            await asyncio.wait(self._workers)

    def stuck(self) -> str | None:
        """Return what is stuck, or None. An unreachable database or provider blocks nothing: its waits time out."""
        now = asyncio.get_running_loop().time()
        # The most specific reason first: a poll or a save that hangs may delay the ticks, too.
        if self._listing and (late := now - min(self._listing.values())) > LATE_SECONDS:
            return f"a poll has outlived its lease by {late:.0f} s"
        if (saving := self.queue.saving_seconds()) > LONGEST_SAVE_SECONDS:
            return f"a save has been running for {saving:.0f} s"
        if now - self._ticked_at > LONGEST_TICK_SECONDS:
            return f"no tick has ended for {now - self._ticked_at:.0f} s"
        return None

    async def _tick(self) -> int:
        loop = asyncio.get_running_loop()
        capacities = {s.key: capacity for s in self._sources.values() if (capacity := s.capacity(loop.time())).slots}
        if not capacities:
            return 0
        claimed_before = loop.time()
        try:
            with self._health.unit("claim"):
                leases = await self._store.claim_due_jobs(capacities, self._lease_seconds)
        except DatabaseUnavailableError:
            return 0
        self._wants_more = len(leases) >= min(capacity.slots for capacity in capacities.values())
        self._start(leases, claimed_before)
        return len(leases)

    async def poll_named(self, jobs: Iterable[Job]) -> list[Job]:
        """Poll these jobs now, due or not. Returns those that were not polled.

        Waits for jobs that other daemons hold, until none could be claimed for about as long as a lease. Raises
        DatabaseUnavailableError.
        """
        loop = asyncio.get_running_loop()
        pending = {job.key: job for job in jobs if job.source in self._sources}
        intervals = {s.key: s.request_interval for s in self._sources.values() if s.request_interval}
        # A job that another daemon holds is free when its lease expires, but a rate limit may delay its claim.
        wait_seconds = self._lease_seconds + 2 * max(intervals.values(), default=0)
        give_up_at = loop.time() + wait_seconds
        unpolled: list[Job] = []
        self._wants_more = True
        while pending:
            if failed := {source.key for source in self._sources.values() if _is_given_up(source, loop.time())}:
                unpolled += [job for job in pending.values() if job.source in failed]
                pending = {key: job for key, job in pending.items() if job.source not in failed}
            self.wake.clear()
            claimed_before = loop.time()
            batch = self._within_capacity(pending.values())
            leases: list[Lease] = []
            try:
                if batch:
                    leases = await self._store.claim_named_jobs(batch, intervals, self._lease_seconds)
            except DatabaseUnavailableError:
                if loop.time() > give_up_at:
                    raise
            _move_to_the_end(pending, batch, {lease.job for lease in leases})
            self._start(leases, claimed_before)
            if leases or self._workers:
                give_up_at = loop.time() + wait_seconds
            elif loop.time() > give_up_at:
                break
            if pending:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HELD_SECONDS):
                        await self.wake.wait()
        await self.idle()
        return [*unpolled, *pending.values()]

    def _within_capacity(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the first of these jobs for which their sources have capacity."""
        now = asyncio.get_running_loop().time()
        slots = {source.key: source.capacity(now).slots for source in self._sources.values()}
        chosen = []
        for job in jobs:
            if slots[job.source] > 0:
                slots[job.source] -= 1
                chosen.append(job)
            elif not any(slots.values()):
                break
        return chosen

    def _start(self, leases: Sequence[Lease], claimed_before: float) -> None:
        """Hand claimed jobs to the workers of their sources. A source has as many workers as concurrent requests."""
        poll_by, save_by = claimed_before + POLL_SHARE * self._lease_seconds, claimed_before + self._lease_seconds
        for lease in leases:
            source = self._sources[lease.source]
            source.start(Claim(lease, poll_by, save_by))
            if source.workers < source.concurrency:
                source.workers += 1
                worker = self._group.create_task(self._work(source))
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    async def _work(self, source: ActiveSource) -> None:
        """Poll the waiting jobs of a source, one after the other, until none is left."""
        try:
            while source.waiting:
                claim = source.waiting.popleft()
                try:
                    finished = await self._poll(claim, source)
                    await self.queue.put(finished)
                finally:
                    source.finish(claim)
                    if self._wants_more and source.wants_jobs:
                        self.wake.set()
        finally:
            source.workers -= 1

    async def _poll(self, claim: Claim, source: ActiveSource) -> FinishedPoll:
        """Poll one job. A failure becomes a result, because an exception would cancel all other polls."""
        started = asyncio.get_running_loop().time()
        if source.attribution.is_silent(started):
            return FinishedPoll(claim, source, None, source.attribution.failure, 0)
        if started >= claim.poll_by:
            return FinishedPoll(claim, source, None, None, 0)
        self._listing[claim.lease.job] = claim.save_by
        client = source.client
        try:
            limiter = RateLimiter(self._store, source.key, source.request_interval, paid=1)
            raw = await client.list_checkpoints(claim.lease.id, claim.poll_by, limiter.wait)
            finished = self._evaluate(claim, source, client, raw, started)
        except asyncio.CancelledError:
            self.queue.put_now(FinishedPoll(claim, source, None, None, 0))
            raise
        except Exception:  # noqa: BLE001  # an error of checkpointd itself must end this poll only, not the daemon
            log.exception("poll.crashed", source=source.name, job=claim.lease.id)
            failure = Failure(ErrorClass.INTERNAL, "an error of checkpointd itself: see its log")
            finished = self._evaluate(claim, source, client, RawListing([], failure, 1), started)
        finally:
            self._listing.pop(claim.lease.job, None)
        metrics.POLL_SECONDS.observe(asyncio.get_running_loop().time() - started)
        return finished

    def _evaluate(
        self, claim: Claim, source: ActiveSource, client: Client, raw: RawListing, started: float
    ) -> FinishedPoll:
        """Evaluate a listing, for its job and for its source."""
        lease, failure, now = claim.lease, raw.failure, asyncio.get_running_loop().time()
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
        result = evaluate(lease, raw, self._cadence, client.holds_secret, verdict)
        return FinishedPoll(claim, source, result, of_source, raw.requests)

    def cancel_polls(self) -> None:
        """Cancel the running polls; their jobs are released."""
        for worker in list(self._workers):
            worker.cancel()

    async def drain(self, seconds: float) -> None:
        """Release the waiting jobs, let the running polls end within `seconds`, then cancel the rest."""
        for source in self._sources.values():
            while source.waiting:
                claim = source.waiting.popleft()
                self.queue.put_now(FinishedPoll(claim, source, None, None, 0))
                source.finish(claim)
        if self._workers:
            await asyncio.wait(self._workers, timeout=seconds)
        self.cancel_polls()
        await self.idle()


def _is_given_up(source: ActiveSource, now: float) -> bool:
    """Return whether jobs that are named once are not polled, because their source is silent.

    A failing source is given up after its last running poll: if that succeeds, the source works.
    """
    attribution = source.attribution
    return attribution.is_silent(now) and (attribution.state is not SourceState.FAILING or not source.in_flight)


def _move_to_the_end(pending: dict[int, Job], tried: Iterable[Job], claimed: set[int]) -> None:
    """Remove the claimed jobs from `pending`, and move those that other daemons hold to its end."""
    for job in tried:
        del pending[job.key]
        if job.key not in claimed:
            pending[job.key] = job
