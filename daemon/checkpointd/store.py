"""All traffic with PostgreSQL but the save of polls (save.py) and migrations: one pool, every wait with a deadline."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
from asyncpg.connect_utils import SessionAttribute

from checkpointd import address, queries
from checkpointd.address import Address, Host
from checkpointd.reasons import explain

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Connect = Callable[[], Awaitable[asyncpg.Connection]]
T = TypeVar("T")

CONNECT_SECONDS: Final = 4.0
ACQUIRE_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 0.25
"""A connection says goodbye, and is cut where nobody hears it."""
RESCUE_SECONDS: Final = 1.0
"""Work that is cut short has so long to end in order; else what it holds is free with its lease."""
STATEMENT_SECONDS: Final = 15.0
POOL_SIZE: Final = 4  # a claim, a save, a job list, a reader

UNAVAILABLE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a call may raise when the database cannot do its part: down, restarting, out of room, a right missing."""

_SESSION: Final = {
    "application_name": "checkpointd",
    "timezone": "UTC",
    "search_path": "pg_catalog",
    "statement_timeout": "15s",
    "lock_timeout": "3s",
    # A client that froze inside a transaction, or is cut off, must not hold its locks.
    "idle_in_transaction_session_timeout": "3s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
TRANSACTION_TIMEOUT: Final = "20s"

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}


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
    equal_listings: int
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


async def connect(url: str, *, pooler: bool = False) -> asyncpg.Connection:
    """Open a connection whose every wait ends: TCP notices a dead peer within 20 s, statements end after 15 s.

    Of several hosts all are tried at once, so that one that is cut off holds up nobody. With `pooler`, nothing is asked
    of a session that another client may have next.

    Raises one of UNAVAILABLE, or AddressError.
    """
    where = address.parse(url)
    if len(where.hosts) < 2:
        return await _connect(where, *where.hosts, pooler=pooler)
    attempts = {asyncio.create_task(_connect(where, host, pooler=pooler)): host for host in where.hosts}
    pending, failures, found = set(attempts), dict[Host, Exception](), None
    try:
        while pending and found is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if isinstance(error := attempt.exception(), UNAVAILABLE):
                    failures[attempts[attempt]] = error
                elif found is None:
                    found = await attempt
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(lambda a: _discard(a, found))
    if found is None:
        told = "; ".join(explain(failures[host]) for host in where.hosts)
        raise ConnectionError(f"no host is {where.attribute}: {told}")
    return found


def _discard(attempt: asyncio.Task[asyncpg.Connection], chosen: asyncpg.Connection | None) -> None:
    """Close a connection that came too late."""
    if not attempt.cancelled() and attempt.exception() is None and attempt.result() is not chosen:
        attempt.result().terminate()


async def _connect(where: Address, host: Host | None = None, *, pooler: bool) -> asyncpg.Connection:
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            where.url,
            host=host.name if host else None,
            port=host.port if host else None,
            ssl=where.tls(host) if host else where.sslmode,
            target_session_attrs=SessionAttribute(where.attribute),
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=0 if pooler else 100,
            max_cached_statement_lifetime=0,
            server_settings={} if pooler else _SESSION,
        )
        if not pooler:
            await _limit_transactions(connection)
    except UNAVAILABLE as e:
        if host:
            e.add_note(str(host))  # for explain()
        raise
    transport: asyncio.BaseTransport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001  # no other way
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


async def _limit_transactions(connection: asyncpg.Connection) -> None:
    """Set what older servers do not know, and would refuse a connection for."""
    try:
        await connection.execute(queries.LIMIT_TRANSACTIONS, TRANSACTION_TIMEOUT, timeout=CONNECT_SECONDS)
    except BaseException:
        connection.terminate()
        raise


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
