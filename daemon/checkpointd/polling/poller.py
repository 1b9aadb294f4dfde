"""Claim due jobs, and hand them to the workers.

- `tick` claims as many due jobs as the sources have capacity for.
- The workers list the checkpoints of each job and evaluate the listing (workers.py).
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
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from checkpointd.domain.attribution import SourceState
from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.failure import Failure
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease
from checkpointd.polling.save_queue import SaveQueue
from checkpointd.polling.source import ActiveSource, Claim
from checkpointd.polling.workers import Workers
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Capacity, Store
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health

POLL_SHARE: Final = 0.75
"""The share of a lease within which its poll must end; the rest is for the save."""

DRAIN_SHARE: Final = 0.5
"""The share of the drain time in which running polls may end; then they are cancelled."""

LONGEST_TICK_SECONDS: Final = 45.0
"""If no tick has ended for this long, the poller is stuck.

A tick can come 3 s after the last one (the ticker waits for three intervals of 1 s). If the database hangs, its claim
then takes up to 17 s to get a connection and up to 15 s for the statement. These 35 s and a margin of 10 s make 45 s.
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
        self._lease_seconds = lease_seconds
        self.queue = queue
        self._health = health
        self._ticked_at = asyncio.get_running_loop().time()
        self.wake = asyncio.Event()
        """Set when a tick is worth its cost: by the ticker, and when half of a source's capacity is free again."""
        self._workers = Workers(store, cadence, queue, health, group, self.wake)

    async def tick(self) -> int:
        """Claim due jobs and start their polls. Returns the number of jobs; 0 if the database is unavailable."""
        metrics.LAST_TICK.set_to_current_time()
        try:
            return await self._tick()
        finally:
            self._ticked_at = asyncio.get_running_loop().time()

    async def idle(self) -> None:
        """Wait until no poll is running. Results may still wait for a save: see SaveQueue.saved()."""
        await self._workers.idle()

    def stuck(self) -> str | None:
        """Return what is stuck, or None. An unreachable database or provider blocks nothing: its waits time out."""
        now = asyncio.get_running_loop().time()
        # The most specific reason first: a poll or a save that hangs may delay the ticks, too.
        if (late := self._workers.late_seconds()) > LATE_SECONDS:
            return f"a poll has outlived its lease by {late:.0f} s"
        if (saving := self.queue.saving_seconds()) > LONGEST_SAVE_SECONDS:
            return f"a save has been running for {saving:.0f} s"
        if now - self._ticked_at > LONGEST_TICK_SECONDS:
            return f"no tick has ended for {now - self._ticked_at:.0f} s"
        return None

    async def _tick(self) -> int:
        loop = asyncio.get_running_loop()
        self._sources = {source.key: source for source in self._sources.values()}  # a restore can change their keys
        for source in self._sources.values():
            if source.is_stuck(loop.time()):  # other daemons, or another order, may serve these jobs sooner
                self._workers.release_waiting(source)
        capacities = {s.key: capacity for s in self._sources.values() if (capacity := s.capacity(loop.time())).slots}
        if not capacities:
            return 0
        claimed_before = loop.time()
        try:
            with self._health.unit("claim"):
                leases = await self._store.claim_due_jobs(capacities, self._lease_seconds)
        except DatabaseUnavailableError:
            return 0
        held = [lease for lease in leases if not lease.is_lost]
        for source in self._sources.values():
            metrics.record_lost(
                source.name, [lease for lease in leases if lease.is_lost and lease.source == source.key]
            )
        self._start(held, claimed_before, capacities, are_due=True)
        return len(held)

    async def poll_named(self, jobs: Iterable[Job]) -> dict[Job, Failure | None]:
        """Poll these jobs now, due or not. Returns those that were not polled: because of their source, or None.

        Waits for jobs that other daemons hold, until none could be claimed for about as long as a lease. Raises
        DatabaseUnavailableError.
        """
        loop = asyncio.get_running_loop()
        pending = {job.key: job for job in jobs if job.source in self._sources}
        intervals = {s.key: s.request_interval for s in self._sources.values() if s.request_interval}
        # A job that another daemon holds is free when its lease expires, but a rate limit may delay its claim.
        wait_seconds = self._lease_seconds + 2 * max(intervals.values(), default=0)
        give_up_at = loop.time() + wait_seconds
        unpolled: dict[Job, Failure | None] = {}
        for source in self._sources.values():
            source.has_more = True
        while pending:
            given_up = [source for source in self._sources.values() if _is_given_up(source, loop.time())]
            if failed := {source.key: source.attribution.failure for source in given_up}:
                unpolled |= {job: failed[job.source] for job in pending.values() if job.source in failed}
                pending = {key: job for key, job in pending.items() if job.source not in failed}
            self.wake.clear()
            claimed_before = loop.time()
            capacities = {source.key: source.capacity(claimed_before) for source in self._sources.values()}
            batch = _within(capacities, pending.values())
            leases: list[Lease] = []
            try:
                if batch:
                    leases = await self._store.claim_named_jobs(batch, intervals, self._lease_seconds)
            except DatabaseUnavailableError:
                if loop.time() > give_up_at:
                    raise
            _move_to_the_end(pending, batch, {lease.job for lease in leases})
            self._start(leases, claimed_before, capacities)
            if leases or self._workers:
                give_up_at = loop.time() + wait_seconds
            elif loop.time() > give_up_at:
                break
            if pending:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HELD_SECONDS):
                        await self.wake.wait()
        await self.idle()
        return unpolled | dict.fromkeys(pending.values())

    def _start(
        self,
        leases: Sequence[Lease],
        claimed_before: float,
        capacities: Mapping[int, Capacity],
        *,
        are_due: bool = False,
    ) -> None:
        """Hand the jobs of a claim to the workers. `are_due` is whether it was a claim of as many due jobs as possible.

        `capacities` are those of all sources of the claim.
        """
        poll_by, save_by = claimed_before + POLL_SHARE * self._lease_seconds, claimed_before + self._lease_seconds
        claims = defaultdict[int, list[Claim]](list)
        for lease in leases:
            claims[lease.source].append(Claim(lease, claimed_before, poll_by, save_by))
        for key, capacity in capacities.items():
            source = self._sources[key]
            source.add(claims[key], are_tests=capacity.is_test)
            if are_due:
                source.record_claim(claims[key], capacity, claimed_before)
            self._workers.start(source)

    def cancel_polls(self) -> None:
        """Cancel the running polls; their jobs are released."""
        self._workers.cancel()

    async def drain(self, seconds: float) -> None:
        """Release the waiting jobs, let the running polls end within `seconds`, then cancel the rest."""
        await self._workers.drain(self._sources.values(), seconds)


def _within(capacities: Mapping[int, Capacity], jobs: Iterable[Job]) -> list[Job]:
    """Return the first of these jobs for which their sources have capacity."""
    slots = {key: capacity.slots for key, capacity in capacities.items()}
    chosen = []
    for job in jobs:
        if slots[job.source] > 0:
            slots[job.source] -= 1
            chosen.append(job)
        elif not any(slots.values()):
            break
    return chosen


def _is_given_up(source: ActiveSource, now: float) -> bool:
    """Return whether jobs that are named once are not polled, because their source is silent.

    A failing source is given up after its last running poll: if that succeeds, the source works.
    """
    attribution, is_polled = source.attribution, source.claimed > 0
    return source.is_silent(now) and (attribution.state is not SourceState.FAILING or not is_polled)


def _move_to_the_end(pending: dict[int, Job], tried: Iterable[Job], claimed: set[int]) -> None:
    """Remove the claimed jobs from `pending`, and move those that other daemons hold to its end."""
    for job in tried:
        del pending[job.key]
        if job.key not in claimed:
            pending[job.key] = job
