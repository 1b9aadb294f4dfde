"""Claim, release and track jobs. Each statement is its own transaction.

The statements of job lists are in job_lists.py, those that save in save.py and job_records.py, those that commands and
metrics show in overview.py, and those of the status page in snapshot.py.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

import asyncpg

from checkpointd.domain.attribution import OWN_FAILURES, SourceState
from checkpointd.domain.cadence import FAILURE_CAP
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease
from checkpointd.postgres import connection, queries
from checkpointd.postgres.connection import Connect, Connection
from checkpointd.postgres.errors import DatabaseUnavailableError, driver_errors_wrapped, repeated
from checkpointd.postgres.lock_table import name_cause, prepare_for_full_lock_table

T = TypeVar("T")

POOL_SIZE: Final = 4  # a claim, a save, a job list, a reader

ACQUIRE_SECONDS: Final = 21.0
"""How long to wait for a connection of the pool, including the time to connect and to prepare it."""

CLOSE_SECONDS: Final = 0.25
"""How long all connections together may take to close. After that they are aborted."""

UNDO_SECONDS: Final = 1.0
"""How long cancelled work may take to finish and be undone. After that, its lease has to expire."""

_POOL_IS_STALE: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors after which all connections are replaced. After a failover, they may be connected to the old primary."""


class ClaimOrder(StrEnum):
    """Which due jobs are claimed first. In the orders RANDOM and RECENT, jobs that have failed come last."""

    OVERDUE = "overdue"
    """Those that have been due for longest."""
    RANDOM = "random"
    RECENT = "recent"
    """Those that were read most recently."""


class Capacity(NamedTuple):
    """How many jobs a source can take now, and at which rate. The fields are parameters of claim_due_jobs.sql."""

    slots: int
    failing_slots: int
    """How many of the slots jobs may take that fail lastingly."""
    request_interval: float | None
    """Seconds between requests, or None without a rate limit."""
    claim_order: ClaimOrder = ClaimOrder.OVERDUE
    is_test: bool = False
    """True if the job may be polled although all slots are taken. No parameter of the statement."""


async def finish_or_undo(work: Awaitable[T], undo: Callable[[T], Awaitable[object]] | None = None) -> T:
    """Await `work` even if cancelled, then undo it: a cancelled claim would hold its leases until they expire."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(DatabaseUnavailableError, TimeoutError):
            async with asyncio.timeout(UNDO_SECONDS):
                done = await task
                if undo is not None:
                    await undo(done)
        raise


async def _keep_session(_: Connection) -> None:
    """Reset nothing when a connection returns to the pool: no statement changes the state of its session."""


class Store:
    """The database. Every method may raise DatabaseUnavailableError. No state is kept between calls."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. Errors of the driver leave the block as DatabaseUnavailableError.

        If the block is cancelled, or a time limit ends it, the connection is closed at once: its state is unknown, and
        a server that hangs would not respond.
        """
        with driver_errors_wrapped():
            try:
                async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as lent:
                    try:
                        try:
                            yield lent
                        except asyncpg.OutOfMemoryError as e:
                            await name_cause(lent, e)
                            raise
                    except (asyncio.CancelledError, TimeoutError):
                        with suppress(asyncpg.InterfaceError):  # the driver has closed it already
                            lent.terminate()
                        raise
            except _POOL_IS_STALE:
                await self._pool.expire_connections()
                raise

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement of sql/queries. For the modules of this package."""
        async with self.connection() as lent:
            # The limit holds for both round trips: preparing the statement, and running it.
            return await repeated(lambda: lent.fetch(query, *args, timeout=connection.STATEMENT_SECONDS))

    async def register_sources(self, kinds: Mapping[str, str]) -> dict[str, int]:
        """Create the configured sources that do not exist. `kinds` are by name; returns the keys by name.

        A source that was renamed is also found by a former name.
        """
        rows = await self.fetch(queries.REGISTER_SOURCES, list(kinds), list(kinds.values()))
        return {row["name"]: row["key"] for row in rows}

    async def read_clock(self) -> float:
        """Return the time of the database's clock, in Unix seconds."""
        return float((await self.fetch(queries.READ_CLOCK))[0]["now"])

    async def identify_database(self) -> tuple[object, ...]:
        """Return values that differ once the database was restored, or its server restarted."""
        return tuple((await self.fetch(queries.IDENTIFY_DATABASE))[0])

    async def claim_due_jobs(self, capacities: Mapping[int, Capacity], lease_seconds: float) -> list[Lease]:
        """Lease due jobs of each source, as many as it can take. If cancelled, releases them again.

        A job is returned, too, if it is not leased because its last leases were lost: see Lease.is_lost.
        """
        claim = self.fetch(
            queries.CLAIM_DUE_JOBS,
            list(capacities),
            [capacity.slots for capacity in capacities.values()],
            [capacity.failing_slots for capacity in capacities.values()],
            [capacity.request_interval for capacity in capacities.values()],
            lease_seconds,
            [capacity.claim_order for capacity in capacities.values()],
            OWN_FAILURES,
            FAILURE_CAP,
        )
        return await finish_or_undo(_leases(claim), self.release)

    async def claim_named_jobs(
        self, jobs: Sequence[Job], request_intervals: Mapping[int, float], lease_seconds: float
    ) -> list[Lease]:
        """Lease these jobs, due or not, unless they are leased already. If cancelled, releases them again."""
        claim = self.fetch(
            queries.CLAIM_NAMED_JOBS,
            [job.key for job in jobs],
            [job.source for job in jobs],
            list(request_intervals),
            list(request_intervals.values()),
            lease_seconds,
        )
        return await finish_or_undo(_leases(claim), self.release)

    async def release(self, leases: Sequence[Lease]) -> None:
        """Give leases back without a save. The jobs are due again at once.

        A job whose row stays locked by another transaction for longer than LOCK_RETRY_DELAYS is due again when its
        lease expires.
        """
        left = list(leases)
        for delay in (0, *connection.LOCK_RETRY_DELAYS):
            await asyncio.sleep(delay)
            keys, tokens = [lease.job for lease in left], [lease.lease_token for lease in left]
            released = {row["job"] for row in await self.fetch(queries.RELEASE_LEASES, keys, tokens)}
            left = [lease for lease in left if lease.job not in released]
            if not left:
                return

    async def pause_source(self, source: int, seconds: float, reason: str, asked_ago: float = 0.0) -> bool:
        """Stop the claims of a source, by every daemon, for this many seconds.

        Returns False, and does nothing, if resume_sources() was called within the last `asked_ago` seconds: the request
        that was refused may have been sent before.
        """
        return bool(await self.fetch(queries.PAUSE_SOURCE, source, seconds, reason, asked_ago))

    async def fail_source(self, source: int, state: SourceState, reason: str) -> None:
        """Record that a source refuses the key of this daemon, or fails for it. Other daemons go on."""
        await self.fetch(queries.FAIL_SOURCE, source, state, reason)

    async def accept_sources(self, sources: Sequence[int]) -> None:
        """Record that these sources accept requests again. Failing jobs of a source that was failing are due soon."""
        rows = await self.fetch(queries.ACCEPT_SOURCES, sources)
        if recovered := [row["key"] for row in rows if row["former_state"] == SourceState.FAILING]:
            await self.fetch(queries.WAKE_FAILING_JOBS, recovered)

    async def rename_source(self, old_name: str, new_name: str) -> str:
        """Rename a source, with its jobs and history, and return `renamed`.

        Nothing is changed if it returns `unknown` (no source has the old name) or `occupied` (a source with jobs has
        the new name).
        """
        return str((await self.fetch(queries.RENAME_SOURCE, old_name, new_name))[0]["outcome"])

    async def resume_sources(self, sources: Sequence[int], begun_before: float = 0.0) -> list[str]:
        """Let every daemon send requests to these sources at once. Returns their names.

        Pauses end that began more than `begun_before` seconds ago; a source with a later one is left as it is.
        """
        return [row["name"] for row in await self.fetch(queries.RESUME_SOURCES, sources, begun_before)]

    async def was_resumed(self, source: int, seconds: float) -> bool:
        """Return whether resume_sources() was called for a source within the last `seconds`, by whatever process."""
        return bool((await self.fetch(queries.WAS_RESUMED, source, seconds))[0]["resumed"])

    async def charge_source(self, source: int, request_interval: float) -> float:
        """Count a request against the rate limit of a source. Returns after how many seconds it may be made.

        That is infinity if the source has no row, because the database was restored.
        """
        rows = await self.fetch(queries.CHARGE_SOURCE, source, request_interval)
        return float(rows[0]["ahead"]) if rows else math.inf

    async def track(self, source: int, ids: Sequence[str]) -> int:
        """Track jobs that a person named. Returns how many were not tracked before."""
        return len(await self.fetch(queries.TRACK_JOBS, source, ids))

    async def untrack(self, jobs: Sequence[Job]) -> int:
        """Stop polling jobs. Their rows stay. Returns how many were tracked."""
        return len(await self.fetch(queries.UNTRACK_JOBS, [job.key for job in jobs]))

    async def resync(self, jobs: Sequence[Job]) -> int:
        """Make tracked jobs due at once, sealed ones too. Their next listing is compared in full. Returns how many."""
        return len(await self.fetch(queries.RESYNC_JOBS, [job.key for job in jobs]))

    async def reopen_sealed_jobs(self) -> int:
        """Make sealed jobs due whose seal lies in the future: the clock was set back since. Returns how many."""
        return len(await self.fetch(queries.REOPEN_SEALED_JOBS))

    async def find_jobs(self, ids: Sequence[str], source: str | None = None) -> list[Job]:
        """Find jobs by id, in all sources or in this one, also those that are no longer tracked."""
        return [Job(*row) for row in await self.fetch(queries.FIND_JOBS, ids, source)]

    async def find_tracked_jobs(self, sources: Sequence[int]) -> list[Job]:
        """Find all tracked jobs of these sources."""
        return [Job(*row) for row in await self.fetch(queries.FIND_TRACKED_JOBS, sources)]


async def _leases(claim: Awaitable[Sequence[asyncpg.Record]]) -> list[Lease]:
    return [Lease(*row) for row in await claim]


@asynccontextmanager
async def open_store(connect: Connect, size: int = POOL_SIZE) -> AsyncIterator[Store]:
    """Open a store with up to `size` connections, which `connect` opens when they are needed."""

    async def connect_and_prepare(*_: object, **__: object) -> asyncpg.Connection:
        connection = await connect()
        try:
            await prepare_for_full_lock_table(connection)
        except BaseException:  # as the pool's `init` it would be closed gently, which waits for a server that hangs
            connection.terminate()
            raise
        return connection

    pool = asyncpg.create_pool(
        min_size=0,
        max_size=size,
        max_inactive_connection_lifetime=60,
        connect=connect_and_prepare,
        reset=_keep_session,
    )
    await pool  # opens no connection yet
    try:
        yield Store(pool)
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()
