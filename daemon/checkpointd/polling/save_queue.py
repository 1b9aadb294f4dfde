"""Finished polls on their way to the database: many go into one commit, and nobody waits for the slowest."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import msgspec

from checkpointd.domain.failure import ErrorClass, Failure, pause_seconds
from checkpointd.polling.source import Claim, Service
from checkpointd.postgres.connection import UNAVAILABLE
from checkpointd.postgres.save import release, save_quiet, save_telling
from checkpointd.postgres.save_rows import Poll, Saved
from checkpointd.postgres.store import Lease, Store
from checkpointd.telemetry import logs as observe
from checkpointd.telemetry.logs import log

BATCH_POLLS: Final = 512
BATCH_ITEMS: Final = 10_000
BATCH_SECONDS: Final = 0.05
"""A save takes this many polls or items, or what has come within this many seconds."""

ITEM_CHARACTERS: Final = 4096
"""An item so long counts as two, and so on."""

BACKLOG_ITEMS: Final = 3 * BATCH_ITEMS
"""With more than this waiting, polls wait with their next request."""

RETRY_SECONDS: Final = 1.0
"""A save that fails is tried again each second while its leases last."""


LEASE_LOST: Final = "its lease was lost: another daemon polls it, or the database did not save it in time"


class Finished(msgspec.Struct, frozen=True):
    """A finished poll: what to save of it, or (None) it is given back untouched; and what befell its source."""

    claim: Claim
    service: Service
    poll: Poll | None
    of_source: Failure | None
    requests: int

    @property
    def items(self) -> int:
        """The size of it: a long item counts as several, so that a batch is some tens of megabytes at most."""
        reading = self.poll.reading if self.poll else None
        return 1 + (sum(1 + len(item.payload) // ITEM_CHARACTERS for item in reading.items) if reading else 0)


T = TypeVar("T")
Result = Saved | Failure
Report = Callable[[Lease, Result], None]


async def note_trouble(store: Store, source: int, failure: Failure) -> None:
    """Tell the other daemons what befell a source: it pauses for all, or this daemon's key was refused."""
    if failure.error_class is ErrorClass.REFUSED:
        await store.refuse_source(source, failure.message)
    else:
        await store.pause_source(source, pause_seconds(failure), failure.message)


class Outbox:
    """A queue with one saver. `report` is told what became of each poll."""

    def __init__(self, store: Store, report: Report | None = None) -> None:
        self._store = store
        self._report = report
        self._waiting: list[Finished] = []
        self._items = 0
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._full = asyncio.Event()
        self._close_by: float | None = None
        self._limit: asyncio.Timeout | None = None
        self._busy_since: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the work with the database that is under way has lasted, 0 if there is none."""
        return 0.0 if self._busy_since is None else asyncio.get_running_loop().time() - self._busy_since

    async def put(self, finished: Finished) -> None:
        """Hand over a finished poll; waits while the backlog is long."""
        try:
            while self._items > BACKLOG_ITEMS:
                self._drained.clear()
                await self._drained.wait()
        finally:  # cut short, it is saved all the same
            self.put_now(finished)

    def put_now(self, finished: Finished) -> None:
        """Hand over a finished poll at once."""
        self._waiting.append(finished)
        self._items += finished.items
        self._arrived.set()
        if len(self._waiting) >= BATCH_POLLS or self._items >= BATCH_ITEMS:
            self._full.set()

    def close(self, by: float) -> None:
        """Let run() end once nothing waits, and at a time of the loop's clock at the latest: the database may hang."""
        self._close_by = by
        if self._limit is not None:
            with suppress(RuntimeError):  # that save is over
                self._limit.reschedule(self._close_by)
        self._arrived.set()
        self._full.set()

    async def run(self) -> None:
        """Save batch after batch until closed."""
        while True:
            await self._arrived.wait()
            if not self._waiting:
                return  # closed
            if not self._full.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(BATCH_SECONDS):
                        await self._full.wait()
            await self._save(self._take())
            self._drained.set()

    def _take(self) -> list[Finished]:
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

    async def _save(self, batch: Sequence[Finished]) -> None:
        polls = [f.poll for f in batch if f.poll]
        given_back = [f.claim.lease for f in batch if not f.poll]
        quiet, telling = [p for p in polls if p.quiet], [p for p in polls if not p.quiet]
        save_by = max(f.claim.save_by for f in batch)
        saved: list[Saved] = []
        if given_back:
            await self._insist(lambda: release(self._store, given_back), save_by)
        if quiet:
            saved += await self._insist(lambda: save_quiet(self._store, quiet), save_by) or []
        if telling:
            saved += await self._insist(lambda: save_telling(self._store, telling), save_by) or []
        self._tell(batch, {one.poll.lease.job: one for one in saved})
        try:
            async with asyncio.timeout_at(self._close_by) as self._limit:
                with self._busy():
                    await self._follow_up(batch)
        except UNAVAILABLE as e:  # the next poll will find the same
            observe.database("source", e)
        else:
            observe.database("source", None)

    async def _insist(self, save: Callable[[], Awaitable[T]], save_by: float) -> T | None:
        """Save as long as there are leases: after a lost answer a repeat finds nothing to do. None: it was dropped."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._close_by) as self._limit:
                    with observe.SAVE_SECONDS.time(), self._busy():
                        done = await save()
            except UNAVAILABLE as e:
                observe.database("save", e)
            except Exception:  # noqa: BLE001  # a bug of ours costs this batch, not the daemon
                log.exception("save.crashed")
                return None
            else:
                if done != []:  # leases that were lost: nothing was saved
                    observe.database("save", None)
                return done
            if loop.time() + RETRY_SECONDS > min(save_by, self._close_by or save_by):
                return None
            await asyncio.sleep(RETRY_SECONDS)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._busy_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._busy_since = None

    async def _follow_up(self, batch: Sequence[Finished]) -> None:
        """Tell the sources what befell them."""
        troubles = {f.service.key: f.of_source for f in batch if f.of_source and f.requests}
        for source, failure in troubles.items():
            await note_trouble(self._store, source, failure)
        well = {f.service.key for f in batch if f.poll and f.poll.complete and f.claim.lease.troubled}
        if well := well - troubles.keys():
            await self._store.accept_sources(list(well))

    def _tell(self, batch: Sequence[Finished], saved: dict[int, Saved]) -> None:
        by_source: dict[str, list[Saved]] = defaultdict(list)
        lost: dict[str, list[str]] = defaultdict(list)
        requests = Counter[str]()
        for f in batch:
            requests[f.service.name] += f.requests
            one = saved.get(f.claim.lease.job)
            if one and one.poll.lease is not f.claim.lease:  # that of an earlier lease, which was lost
                one = None
            if one:
                by_source[f.service.name].append(one)
            elif f.poll:
                lost[f.service.name].append(f.claim.lease.id)
            if self._report:
                self._report(f.claim.lease, one or f.of_source or Failure(ErrorClass.INTERNAL, LEASE_LOST))
        for source, jobs in lost.items():
            log.warning("poll.dropped", source=source, reason=LEASE_LOST, **observe.some(jobs))
        for source, polls in by_source.items():
            observe.committed(source, polls)
        for source, count in requests.items():
            observe.REQUESTS.labels(source).inc(count)
