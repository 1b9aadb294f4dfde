"""Finished polls that wait for a save. One commit saves many polls, and does not wait for polls that still run."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.poll import Lease, PollResult, SavedPoll
from checkpointd.polling.source import ActiveSource, Claim, report_failure
from checkpointd.postgres.connection import database_deadline
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Store
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

BATCH_POLLS: Final = 512
BATCH_ITEMS: Final = 10_000
BATCH_SECONDS: Final = 0.05
"""A save takes up to BATCH_POLLS polls and about BATCH_ITEMS items. It waits BATCH_SECONDS at most for more polls."""

ITEM_CHARACTERS: Final = 4096
"""The length from which an item counts as two; from twice this length it counts as three, and so on."""

BACKLOG_ITEMS: Final = 3 * BATCH_ITEMS
"""With more items than this waiting for a save, a worker waits before it starts its next poll."""

RETRY_SECONDS: Final = 1.0
"""The delay before a failed save is tried again. It is tried until its leases expire."""

LEASE_LOST: Final = "its lease was lost: another daemon polls the job, or the poll was not saved in time"


class FinishedPoll(msgspec.Struct, frozen=True):
    """A poll that has ended. Without a result, its job is released."""

    claim: Claim
    source: ActiveSource
    result: PollResult | None
    source_failure: Failure | None
    """Why the source rejected the poll, or None."""
    requests: int

    @property
    def items(self) -> int:
        """The size in items. A long item counts as several, so that a batch is some tens of megabytes at most."""
        listing = self.result.listing if self.result else None
        return 1 + (sum(1 + len(item.payload) // ITEM_CHARACTERS for item in listing.checkpoints) if listing else 0)


T = TypeVar("T")
Outcome = SavedPoll | Failure
Report = Callable[[Lease, Outcome], None]


class SaveQueue:
    """A queue with one consumer, run(). `report` is called with the outcome of each poll."""

    def __init__(self, store: Store, health: Health, report: Report | None = None) -> None:
        self._store = store
        self._health = health
        self._report = report
        self._waiting: list[FinishedPoll] = []
        self._items = 0
        self._arrived = asyncio.Event()
        self._batch_saved = asyncio.Event()
        self._full = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._close_by: float | None = None
        self._limit: asyncio.Timeout | None = None
        self._not_saved: str = LEASE_LOST
        """Why polls of the last batch were not saved."""

    def saving_seconds(self) -> float:
        """Return how long the running save or its follow-up has lasted, or 0 if there is none."""
        return max(self._health.running_seconds("save"), self._health.running_seconds("source"))

    async def saved(self) -> None:
        """Wait until nothing waits for a save and no save is running."""
        await self._idle.wait()

    async def put(self, finished: FinishedPoll) -> None:
        """Add a finished poll. Waits while the backlog is long."""
        try:
            while self._items > BACKLOG_ITEMS:
                self._batch_saved.clear()
                await self._batch_saved.wait()
        finally:  # also if cancelled
            self.put_now(finished)

    def put_now(self, finished: FinishedPoll) -> None:
        """Add a finished poll at once."""
        self._waiting.append(finished)
        self._items += finished.items
        self._idle.clear()
        self._arrived.set()
        if len(self._waiting) >= BATCH_POLLS or self._items >= BATCH_ITEMS:
            self._full.set()

    def close(self, by: float) -> None:
        """Let run() return when nothing waits, and no later than `by` on the event loop's clock."""
        self._close_by = by
        if self._limit is not None:
            with suppress(RuntimeError):  # the save has ended, and its limit with it
                self._limit.reschedule(self._close_by)
        self._arrived.set()
        self._full.set()

    async def run(self) -> None:
        """Save one batch after the other until closed."""
        while True:
            await self._arrived.wait()
            if not self._waiting:
                return  # closed
            if not self._full.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(BATCH_SECONDS):
                        await self._full.wait()
            await self._save(self._take())
            self._batch_saved.set()
            if not self._waiting:
                self._idle.set()

    def _take(self) -> list[FinishedPoll]:
        taken, items = 0, 0
        while taken < min(len(self._waiting), BATCH_POLLS) and items < BATCH_ITEMS:
            items += self._waiting[taken].items
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        self._items -= items
        if self._close_by is None:
            if len(self._waiting) < BATCH_POLLS and self._items < BATCH_ITEMS:
                self._full.clear()
            if not self._waiting:
                self._arrived.clear()
        return batch

    async def _save(self, batch: Sequence[FinishedPoll]) -> None:
        results = [finished.result for finished in batch if finished.result]
        released = [finished.claim.lease for finished in batch if not finished.result]
        quiet, changed = [r for r in results if r.quiet], [r for r in results if not r.quiet]
        save_by = max(finished.claim.save_by for finished in batch)
        saved: list[SavedPoll] = []
        self._not_saved = LEASE_LOST
        if released:
            await self._retry(lambda: self._store.release(released), save_by)
        if quiet:
            saved += await self._retry(lambda: save_quiet(self._store, quiet), save_by) or []
        if changed:
            saved += await self._retry(lambda: save_changed(self._store, changed), save_by) or []
        self._report_outcomes(batch, {saved_poll.result.lease.job: saved_poll for saved_poll in saved})
        # If this fails, it is not repeated: the next poll of the source stores the state of the source.
        with suppress(DatabaseUnavailableError), self._health.unit("source"):
            async with database_deadline(self._close_by) as self._limit:
                await self._update_sources(batch)

    async def _retry(self, save: Callable[[], Awaitable[T]], save_by: float) -> T | None:
        """Call `save` until it succeeds or the leases expire. Returns its result, or None if nothing was saved.

        A save whose answer was lost may have been committed. The next attempt then finds no lease and writes nothing.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                with self._health.unit("save", metrics.SAVE_SECONDS) as unit:
                    async with database_deadline(self._close_by) as self._limit:
                        done = await save()
                    unit.is_conclusive = done != []  # all leases were lost, and nothing was saved
            except DatabaseUnavailableError as error:
                self._not_saved = f"the database did not save it: {error}"
                if loop.time() + RETRY_SECONDS > min(save_by, self._close_by or save_by):
                    return None
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # noqa: BLE001  # an error of checkpointd itself must end this batch only, not the daemon
                log.exception("save.crashed")
                return None
            else:
                self._not_saved = LEASE_LOST
                return done

    async def _update_sources(self, batch: Sequence[FinishedPoll]) -> None:
        """Store the failures of the sources, and which sources have recovered."""
        failures = {f.source.key: f.source_failure for f in batch if f.source_failure and f.requests}
        for source, failure in failures.items():
            await report_failure(self._store, source, failure)
        accepted = {f.source.key for f in batch if f.result and f.result.complete and f.claim.lease.source_not_ok}
        if accepted := accepted - failures.keys():
            await self._store.accept_sources(list(accepted))

    def _report_outcomes(self, batch: Sequence[FinishedPoll], saved: dict[int, SavedPoll]) -> None:
        by_source: dict[str, list[SavedPoll]] = defaultdict(list)
        lost: dict[str, list[str]] = defaultdict(list)
        requests = Counter[str]()
        for finished in batch:
            name, lease = finished.source.name, finished.claim.lease
            requests[name] += finished.requests
            saved_poll = saved.get(lease.job)
            if saved_poll and saved_poll.result.lease is not lease:  # the result of another lease of this job
                saved_poll = None
            if saved_poll:
                by_source[name].append(saved_poll)
            elif finished.result:
                lost[name].append(lease.id)
            if self._report:
                failure = finished.source_failure or Failure(ErrorClass.INTERNAL, self._not_saved)
                self._report(lease, saved_poll or failure)
        for source, jobs in lost.items():
            log.warning("poll.dropped", source=source, reason=self._not_saved, **metrics.log_fields(jobs))
        for source, polls in by_source.items():
            metrics.record_saved(source, polls)
        for source, count in requests.items():
            metrics.REQUESTS.labels(source).inc(count)
