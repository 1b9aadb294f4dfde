"""Claim, release and track jobs. Each statement is its own transaction.

The statements that save are in save.py and job_records.py, those that commands and metrics show in overview.py, those
of the status page in snapshot.py.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple, TypeVar

import asyncpg

from checkpointd.domain.attribution import SourceState
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease
from checkpointd.postgres import connection, queries
from checkpointd.postgres.connection import Connect, Connection
from checkpointd.postgres.errors import DatabaseUnavailableError, driver_errors_wrapped, repeated

T = TypeVar("T")

POOL_SIZE: Final = 4  # a claim, a save, a job list, a reader

ACQUIRE_SECONDS: Final = 5.0
"""How long to wait for a connection of the pool, including the time to connect."""

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


class Capacity(NamedTuple):
    """How many jobs a source can take now, and at which rate. The fields are parameters of claim_due_jobs.sql."""

    slots: int
    failing_slots: int
    """How many of the slots failing jobs may take."""
    request_interval: float | None
    """Seconds between requests, or None without a rate limit."""


class JobListLease(NamedTuple):
    """A claimed job list."""

    source: int
    lease_token: int
    source_may_recover: bool
    """True if the state of the source is not `ok`, and is `ok` again if its job list can be read."""
    full_pass: bool
    """True if the list has not been read to its end for a day."""
    was_read: bool
    """True if it was ever read to its end."""


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
                        yield lent
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
            return await repeated(lambda: lent.fetch(query, *args))

    async def register_sources(self, kinds: Mapping[str, str]) -> dict[str, int]:
        """Create the configured sources that do not exist. `kinds` are by name; returns the keys by name."""
        rows = await self.fetch(queries.REGISTER_SOURCES, list(kinds), list(kinds.values()))
        return {row["name"]: row["key"] for row in rows}

    async def claim_due_jobs(self, capacities: Mapping[int, Capacity], lease_seconds: float) -> list[Lease]:
        """Lease due jobs of each source, as many as it can take. If cancelled, releases them again."""
        claim = self.fetch(
            queries.CLAIM_DUE_JOBS,
            list(capacities),
            [capacity.slots for capacity in capacities.values()],
            [capacity.failing_slots for capacity in capacities.values()],
            [capacity.request_interval for capacity in capacities.values()],
            lease_seconds,
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

    async def claim_job_list(
        self, source: int, lease_seconds: float, gap: float, *, due_or_not: bool
    ) -> list[JobListLease]:
        """Lease the job list of a source if it is due; with `due_or_not`, always.

        Returns no lease if the list is leased already. If cancelled, releases it again: it is due after `gap` seconds.
        """

        async def claim() -> list[JobListLease]:
            rows = await self.fetch(queries.CLAIM_JOB_LISTS, [source], lease_seconds, due_or_not)
            return [JobListLease(*row) for row in rows]

        async def undo(leases: Sequence[JobListLease]) -> None:
            for lease in leases:
                await self.finish_job_list(lease, gap, whole=False, error=None)

        return await finish_or_undo(claim(), undo)

    async def finish_job_list(self, lease: JobListLease, gap: float, *, whole: bool, error: str | None) -> None:
        """Give the lease of a job list back.

        `gap` is the number of seconds from the claim to the next reading, `whole` whether the list was read to its end,
        and `error` why it could not be read, or None. A task that is being cancelled waits for UNDO_SECONDS at most.
        """
        task = asyncio.current_task()
        finish = self.fetch(queries.FINISH_JOB_LIST, lease.source, lease.lease_token, gap, whole, error)
        async with connection.database_deadline_in(UNDO_SECONDS if task and task.cancelling() else None):
            await finish_or_undo(finish)

    async def find_unfinished_jobs(self, source: int, ended_statuses: Sequence[str]) -> dict[str, bool]:
        """Find the tracked jobs whose last known status is not final, and those that are missing, except sealed ones.

        Returns their ids, and whether each is missing.
        """
        rows = await self.fetch(queries.FIND_UNFINISHED_JOBS, source, ended_statuses)
        return {row["id"]: row["is_missing"] for row in rows}

    async def record_listed(self, lease: JobListLease, ids: Sequence[str]) -> None:
        """Record that the job list shows jobs that are missing, if the lease still holds. Makes gone ones due."""
        await self.fetch(queries.RECORD_LISTED_JOBS, lease.source, lease.lease_token, ids)

    async def pause_source(self, source: int, seconds: float, reason: str) -> None:
        """Stop the claims of a source, by every daemon, for this many seconds."""
        await self.fetch(queries.PAUSE_SOURCE, source, seconds, reason)

    async def fail_source(self, source: int, state: SourceState, reason: str) -> None:
        """Record that a source refuses the key of this daemon, or fails for it. Other daemons go on."""
        await self.fetch(queries.FAIL_SOURCE, source, state, reason)

    async def accept_sources(self, sources: Sequence[int]) -> None:
        """Record that these sources accept requests again. Failing jobs of a source that was failing are due soon."""
        rows = await self.fetch(queries.ACCEPT_SOURCES, sources)
        if recovered := [row["key"] for row in rows if row["former_state"] == SourceState.FAILING]:
            await self.fetch(queries.WAKE_FAILING_JOBS, recovered)

    async def charge_source(self, source: int, request_interval: float) -> float:
        """Count a request against the rate limit of a source. Returns after how many seconds it may be made."""
        rows = await self.fetch(queries.CHARGE_SOURCE, source, request_interval)
        return float(rows[0]["ahead"])

    async def track(self, source: int, ids: Sequence[str]) -> int:
        """Track jobs that a person named. Returns how many were not tracked before."""
        return len(await self.fetch(queries.TRACK_JOBS, source, ids))

    async def discover(self, source: int, ids: Sequence[str]) -> int:
        """Track those of the listed jobs that were never tracked before. Returns how many."""
        return len(await self.fetch(queries.DISCOVER_JOBS, source, ids))

    async def untrack(self, jobs: Sequence[Job]) -> int:
        """Stop polling jobs. Their rows stay. Returns how many were tracked."""
        return len(await self.fetch(queries.UNTRACK_JOBS, [job.key for job in jobs]))

    async def resync(self, jobs: Sequence[Job]) -> int:
        """Make tracked jobs due at once, sealed ones too. Their next listing is compared in full. Returns how many."""
        return len(await self.fetch(queries.RESYNC_JOBS, [job.key for job in jobs]))

    async def find_jobs(self, ids: Sequence[str]) -> list[Job]:
        """Find jobs by id in all sources, also those that are no longer tracked."""
        return [Job(*row) for row in await self.fetch(queries.FIND_JOBS, ids)]

    async def find_tracked_jobs(self, sources: Sequence[int]) -> list[Job]:
        """Find all tracked jobs of these sources."""
        return [Job(*row) for row in await self.fetch(queries.FIND_TRACKED_JOBS, sources)]


async def _leases(claim: Awaitable[Sequence[asyncpg.Record]]) -> list[Lease]:
    return [Lease(*row) for row in await claim]


@asynccontextmanager
async def open_store(connect: Connect, size: int = POOL_SIZE) -> AsyncIterator[Store]:
    """Open a store with up to `size` connections, which `connect` opens when they are needed."""

    async def connect_ignoring_arguments(*_: object, **__: object) -> asyncpg.Connection:
        return await connect()

    pool = asyncpg.create_pool(
        min_size=0,
        max_size=size,
        max_inactive_connection_lifetime=60,
        connect=connect_ignoring_arguments,
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
