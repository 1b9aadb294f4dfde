"""The statements of the status page: all that one page shows is read from the views at one moment."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from asyncpg import Record

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.store import Store


class Snapshot:
    """The views as of one moment. Rows are returned as the driver's records: columns by name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def search_jobs(self, words: Sequence[str], size: int, page: int, statuses: int) -> list[Record]:
        """Return a page of the jobs that contain every word, and in each row the totals of the search.

        Without jobs on that page there is one row with totals and no id.
        """
        return await self._connection.fetch(queries.SEARCH_JOBS, words, size, page, statuses)

    async def list_curves(self, sources: Sequence[str], jobs: Sequence[str], points: int) -> list[Record]:
        """Return the losses of these jobs, thinned to so many points, with the place of each job in the list."""
        return await self._connection.fetch(queries.LIST_CURVES, sources, jobs, points)

    async def list_sources(self) -> list[Record]:
        """Return the sources and their states."""
        return await self._connection.fetch(queries.LIST_SOURCES)

    async def read_job(self, source: str, job: str) -> Record | None:
        """Return one job, or None if it was never tracked."""
        return await self._connection.fetchrow(queries.READ_JOB, source, job)

    async def list_job_curve(self, source: str, job: str, points: int) -> list[Record]:
        """Return the metrics of a job by ascending step, thinned to so many points."""
        return await self._connection.fetch(queries.LIST_JOB_CURVE, source, job, points)

    async def list_job_checkpoints(self, source: str, job: str, size: int, skipped: int) -> list[Record]:
        """Return a part of a job's checkpoints, the newest first."""
        return await self._connection.fetch(queries.LIST_JOB_CHECKPOINTS, source, job, size, skipped)

    async def list_job_changes(self, source: str, job: str, before: int, size: int) -> list[Record]:
        """Return the newest changes of a job whose `seq` is less than `before`."""
        return await self._connection.fetch(queries.LIST_JOB_CHANGES, source, job, before, size)


@asynccontextmanager
async def snapshot(store: Store) -> AsyncIterator[Snapshot]:
    """Open a snapshot. Raises DatabaseUnavailableError."""
    async with (
        store.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield Snapshot(connection)
