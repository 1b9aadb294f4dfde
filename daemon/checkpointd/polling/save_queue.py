"""Finished polls that wait for a save. One commit saves many polls, and does not wait for polls that still run."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from sys import getsizeof
from typing import Final, TypeVar

import msgspec

from checkpointd.domain.failure import ErrorClass, Failure, is_pause
from checkpointd.domain.poll import Lease, PollResult, SavedPoll
from checkpointd.polling.source import ActiveSource, Claim, store_failure, store_recovery
from checkpointd.postgres.comparison import PAYLOAD_BYTES
from checkpointd.postgres.connection import database_deadline
from checkpointd.postgres.errors import TIMEOUT_ERRORS, DatabaseUnavailableError
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Store
from checkpointd.provider import heavy_work
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

BATCH_POLLS: Final = 512
BATCH_ITEMS: Final = 10_000
BATCH_SECONDS: Final = 0.05
"""A save takes up to BATCH_POLLS polls and about BATCH_ITEMS items. It waits BATCH_SECONDS at most for more polls."""

PAYLOAD_METRICS: Final = 8
"""An item counts as one more for each PAYLOAD_BYTES that its text takes in memory, and for each PAYLOAD_METRICS."""

BACKLOG_ITEMS: Final = 2 * BATCH_ITEMS
"""With more items than this waiting for a save or being saved, a worker waits before it starts its next poll."""

RETRY_SECONDS: Final = 1.0
"""The delay before a failed save is tried again. It is tried until its leases expire."""

LEASE_LOST: Final = "its lease was lost: another daemon polls the job, or the poll was not saved in time"


class FinishedPoll(msgspec.Struct, frozen=True):
    """A poll that has ended. Without a result, its job is released."""

    claim: Claim
    source: ActiveSource
    result: PollResult | None
    source_failure: Failure | None
    """Why the poll failed, if the failure concerns the source, or None."""
    requests: int
    items: int = 1
    """The size in items. A large item counts as several, so that a batch takes some tens of megabytes at most."""

    def __post_init__(self) -> None:
        """Count the items."""
        if self.result and (listing := self.result.listing):
            items = sum(
                1 + getsizeof(item.payload) // PAYLOAD_BYTES + len(item.metrics) // PAYLOAD_METRICS
                for item in listing.checkpoints
            )
            rejects = sum(1 + len(reject.raw or b"") // PAYLOAD_BYTES for reject in listing.rejects)
            msgspec.structs.force_setattr(self, "items", 1 + items + rejects)


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
        self._saving = 0
        """The items that are being saved."""
        self._arrived = asyncio.Event()
        self._batch_saved = asyncio.Event()
        self._full = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._close_by: float | None = None
        self._limit: asyncio.Timeout | None = None
        self._most_items = BATCH_ITEMS
        """How many items a save takes: fewer after one that was too slow, and twice as many after each that was not."""
        self._was_slow = False
        """True if the last attempt of a save did not end in time. The next one saves a quarter of its items."""
        self._not_saved: str = LEASE_LOST
        """The reason for the polls of the present batch that are not saved."""

    def saving_seconds(self) -> float:
        """Return for how many seconds a save, or the update of the sources after it, has been running; 0 if none is."""
        return max(self._health.running_seconds("save"), self._health.running_seconds("source"))

    async def saved(self) -> None:
        """Wait until nothing waits for a save and no save is running."""
        await self._idle.wait()

    async def put(self, finished: FinishedPoll) -> None:
        """Add a finished poll. Waits while the backlog is long."""
        try:
            await self._room(BACKLOG_ITEMS)
        finally:  # also if cancelled
            self.put_now(finished)

    async def room(self) -> None:
        """Wait until there is room for a large poll: until less than a batch waits or is being saved."""
        await self._room(BATCH_ITEMS)

    async def _room(self, most: int) -> None:
        while self._items + self._saving > most:
            self._batch_saved.clear()
            await self._batch_saved.wait()

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
            batch = self._take()
            self._saving = sum(finished.items for finished in batch)
            await self._save(batch)
            del batch
            await heavy_work.give_back_memory(self._saving)
            self._saving = 0
            self._batch_saved.set()
            if not self._waiting:
                self._idle.set()

    def _take(self) -> list[FinishedPoll]:
        taken = _count(self._waiting[:BATCH_POLLS], BATCH_ITEMS)
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        self._items -= sum(finished.items for finished in batch)
        if self._close_by is None:
            if len(self._waiting) < BATCH_POLLS and self._items < BATCH_ITEMS:
                self._full.clear()
            if not self._waiting:
                self._arrived.clear()
        return batch

    async def _save(self, batch: Sequence[FinishedPoll]) -> None:
        released = [finished.claim.lease for finished in batch if not finished.result]
        quiet = [finished for finished in batch if finished.result and finished.result.quiet]
        changed = [finished for finished in batch if finished.result and not finished.result.quiet]
        save_by = max(finished.claim.save_by for finished in batch)
        saved: list[SavedPoll] = []
        self._not_saved = LEASE_LOST
        if released:
            await self._retry(lambda: self._store.release(released), save_by)
        saved += await self._save_parts(lambda polls: save_quiet(self._store, polls), quiet, save_by)
        saved += await self._save_parts(
            lambda polls: save_changed(self._store, polls, self._most_items), changed, save_by
        )
        self._report_outcomes(batch, {saved_poll.result.lease.job: saved_poll for saved_poll in saved})
        # If this fails, it is not repeated: the next poll of the source stores the state of the source.
        with suppress(DatabaseUnavailableError), self._health.unit("source"):
            async with database_deadline(self._close_by) as self._limit:
                await self._update_sources(batch)

    async def _save_parts(
        self,
        save: Callable[[Sequence[PollResult]], Awaitable[list[SavedPoll]]],
        batch: Sequence[FinishedPoll],
        save_by: float,
    ) -> list[SavedPoll]:
        """Save finished polls: all at once, unless the connection is too slow for so many."""
        saved: list[SavedPoll] = []
        start = end = 0

        def slow_down() -> None:
            tried = sum(finished.items for finished in batch[start:end])
            self._most_items = max(min(self._most_items, tried) // 4, 1)
            self._was_slow = False

        def save_next() -> Awaitable[list[SavedPoll]]:
            nonlocal end
            if self._was_slow:
                slow_down()
            end = start + _count(batch[start:], self._most_items)
            return save([finished.result for finished in batch[start:end] if finished.result])

        self._was_slow = False
        while start < len(batch):
            done = await self._retry(save_next, save_by)
            if done is None:
                if self._was_slow:
                    slow_down()
                break
            saved += done
            start = end
            self._most_items = min(2 * self._most_items, BATCH_ITEMS)
        return saved

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
                self._was_slow = error.kind in TIMEOUT_ERRORS
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
        """Store the pauses of the sources, which of them fail, and which are ok again."""
        polled = [finished for finished in batch if finished.requests]
        stopped = [(f, f.source_failure) for f in polled if f.source_failure and is_pause(f.source_failure)]
        stopped.sort(key=lambda one: one[0].claim.claimed_at)
        pauses = {finished.source.key: (finished, failure) for finished, failure in stopped}  # the latest of each
        for key, (finished, failure) in pauses.items():
            now, attribution = asyncio.get_running_loop().time(), finished.source.attribution
            seconds = failure.retry_after or attribution.silent_seconds(now)
            if not await self._store.pause_source(key, seconds, failure.message, now - finished.claim.claimed_at):
                attribution.end_silence()  # a command has let all daemons send requests since the poll was claimed
        failed, accepted = dict[int, ActiveSource](), dict[int, ActiveSource]()
        for finished in polled:
            source, complete = finished.source, finished.result is not None and finished.result.complete
            if not complete:
                failed[source.key] = source
            if source.is_marked or (complete and finished.claim.lease.source_not_ok):
                accepted[source.key] = source
        for source in failed.values():
            await store_failure(self._store, source)
        await store_recovery(self._store, [source for key, source in accepted.items() if key not in pauses])

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


def _count(polls: Sequence[FinishedPoll], most_items: int) -> int:
    """Return how many of the first polls have about `most_items` items, at least one."""
    items = 0
    for count, finished in enumerate(polls, start=1):
        items += finished.items
        if items >= most_items:
            return count
    return len(polls)
