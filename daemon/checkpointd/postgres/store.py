"""All traffic with PostgreSQL but the save of polls (save.py) and migrations: one pool, every wait with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

from checkpointd.postgres import queries
from checkpointd.postgres.connection import UNAVAILABLE, Connect, Connection

T = TypeVar("T")

ACQUIRE_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 0.25
"""A connection says goodbye, and is cut where nobody hears it."""
RESCUE_SECONDS: Final = 1.0
"""Work that is cut short has so long to end in order; else what it holds is free with its lease."""
POOL_SIZE: Final = 4  # a claim, a save, a job list, a reader


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A claimed job: what its row of polling said at the claim. Fields in the order of the claims' columns.

    Times are the database's, in Unix seconds: the cadence reckons with them, and nobody else.
    """

    job: int
    source: int
    lease_token: int
    digest: bytes | None
    failures: int
    equal_failures: int
    failing_since: float | None
    error_class: str | None
    settling_since: float | None
    last_change_at: float | None
    newest_step: int | None
    newest_seen_at: float | None
    spacing_s: float | None
    spread_s: float | None
    claimed_at: float
    id: str
    status: str | None
    tracked_at: float
    troubled: bool
    """The source's state was not ok."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a source can take: free slots, how many of them failing jobs may have, seconds between requests or None."""

    slots: int
    failing: int
    emission: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the operator's verbs meet it."""

    key: int
    id: str
    source: int
    source_name: str
    tracked: bool


async def see_through(work: Awaitable[T], give_back: Callable[[T], Awaitable[object]] | None = None) -> T:
    """Return what comes of work that is not to be cut off: what a claim claimed, nobody else could give back."""
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        with suppress(*UNAVAILABLE):
            async with asyncio.timeout(RESCUE_SECONDS):
                done = await doing
                if give_back is not None:
                    await give_back(done)
        raise


async def _keep(_: Connection) -> None:
    """Nothing to reset between uses: no statement of ours leaves session state behind."""


class Store:
    """The database. Methods raise one of UNAVAILABLE where it cannot be reached; nothing is kept between calls."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; after a failure every idle one is renewed, for it may lead to a server that is gone."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                try:
                    yield connection
                except (asyncio.CancelledError, TimeoutError):
                    with suppress(asyncpg.InterfaceError):  # the driver has cut it already
                        connection.terminate()  # what it did nobody knows, and to ask a server that hangs takes long
                    raise
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError,
                asyncpg.ReadOnlySQLTransactionError):  # fmt: skip
            await self._pool.expire_connections()
            raise

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement, which is a transaction of its own."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args)

    async def register_sources(self, kinds: Mapping[str, str]) -> dict[str, int]:
        """Make sure that the configured sources exist: name → kind. Returns name → key."""
        rows = await self.fetch(queries.REGISTER_SOURCES, list(kinds), list(kinds.values()))
        return {row["name"]: row["key"] for row in rows}

    async def claim_due_jobs(self, rooms: Mapping[int, Room], lease_seconds: float) -> list[Lease]:
        """Lease due jobs of each source for as many slots as it has free."""
        rows = await self.fetch(
            queries.CLAIM_DUE_JOBS,
            list(rooms),
            [r.slots for r in rooms.values()],
            [r.failing for r in rooms.values()],
            [r.emission for r in rooms.values()],
            lease_seconds,
        )
        return [Lease(*row) for row in rows]

    async def claim_named_jobs(
        self, jobs: Sequence[Job], emissions: Mapping[int, float], lease_seconds: float
    ) -> list[Lease]:
        """Lease these jobs, due or not, without those that somebody is polling."""
        rows = await self.fetch(
            queries.CLAIM_NAMED_JOBS,
            [j.key for j in jobs],
            [j.source for j in jobs],
            list(emissions),
            list(emissions.values()),
            lease_seconds,
        )
        return [Lease(*row) for row in rows]

    async def pause_source(self, source: int, seconds: float, why: str) -> None:
        """Stop claims of a source for every daemon."""
        await self.fetch(queries.PAUSE_SOURCE, source, seconds, why)

    async def refuse_source(self, source: int, why: str) -> None:
        """Say that this daemon's key was refused."""
        await self.fetch(queries.REFUSE_SOURCE, source, why)

    async def accept_sources(self, sources: Sequence[int]) -> list[str]:
        """Say that answers of these sources were accepted. Returns the names of those that were not ok before."""
        return [row["name"] for row in await self.fetch(queries.ACCEPT_SOURCES, sources)]

    async def charge_source(self, source: int, emission: float) -> float:
        """Charge a further request to a source's budget; returns in how many seconds its turn comes."""
        rows = await self.fetch(queries.CHARGE_SOURCE, source, emission)
        return float(rows[0]["ahead"])

    async def track(self, source: int, ids: Sequence[str]) -> int:
        """Track jobs that a person chose; returns how many were not tracked before."""
        return len(await self.fetch(queries.TRACK_JOBS, source, ids))

    async def discover(self, source: int, ids: Sequence[str]) -> int:
        """Track jobs that were never known before; returns how many."""
        return len(await self.fetch(queries.DISCOVER_JOBS, source, ids))

    async def untrack(self, jobs: Sequence[Job]) -> int:
        """Stop polling jobs; their rows stay. Returns how many were tracked."""
        return len(await self.fetch(queries.UNTRACK_JOBS, [j.key for j in jobs]))

    async def resync(self, jobs: Sequence[Job]) -> int:
        """Have jobs compared in full at once, sealed or not."""
        return len(await self.fetch(queries.RESYNC_JOBS, [j.key for j in jobs]))

    async def find_jobs(self, ids: Sequence[str]) -> list[Job]:
        """Find jobs by id, in every source."""
        return [Job(*row) for row in await self.fetch(queries.FIND_JOBS, ids)]

    async def find_tracked_jobs(self, sources: Sequence[int]) -> list[Job]:
        """Find every tracked job of these sources."""
        return [Job(*row) for row in await self.fetch(queries.FIND_TRACKED_JOBS, sources)]

    async def list_jobs(self) -> list[dict[str, Any]]:
        """Return what is tracked, or was."""
        return [dict(row) for row in await self.fetch(queries.LIST_JOBS)]

    async def list_freshness(self) -> list[dict[str, Any]]:
        """Return how fresh each tracked job is, the worst first."""
        return [dict(row) for row in await self.fetch(queries.LIST_FRESHNESS)]

    async def list_sources(self) -> list[dict[str, Any]]:
        """Return the sources and their health."""
        return [dict(row) for row in await self.fetch(queries.LIST_SOURCES)]


@asynccontextmanager
async def open_store(connect: Connect, size: int = POOL_SIZE) -> AsyncIterator[Store]:
    """Open a store over `connect`, which is called for each of `size` connections. Does not connect by itself."""

    async def fresh(*_: object, **__: object) -> asyncpg.Connection:
        return await connect()

    pool = asyncpg.create_pool(
        min_size=0, max_size=size, max_inactive_connection_lifetime=60, connect=fresh, reset=_keep
    )
    await pool
    try:
        yield Store(pool)
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()
