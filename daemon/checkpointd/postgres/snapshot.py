"""The statements of the status page. Everything on one page is read from the views as of one moment."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from asyncpg import Record

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.store import Store


class CurveRequest(NamedTuple):
    """A curve to read: of a job, with positions on an axis. Without steps, it is that of the checkpoints."""

    source: str
    id: str
    per_step: float | None
    """The position for each step. None: the position is the seconds since `start`."""
    start: datetime | None
    every: int
    """About one step in so many is read. 0: the checkpoints are read instead."""


class Snapshot:
    """The views as of one moment. Rows are returned as the driver's records: columns by name."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def search_jobs(self, words: Sequence[str], size: int, page: int, statuses: int) -> list[Record]:
        """Return a page of the jobs that match every word, `size` jobs per page, the first page being 1.

        Each row also has the totals of the search, with the `statuses` most frequent statuses. If no job matches, there
        is one row with the totals and without a job.
        """
        return await self._connection.fetch(queries.SEARCH_JOBS, words, size, page, statuses)

    async def list_curves(self, sources: Sequence[str], jobs: Sequence[str], points: int) -> list[Record]:
        """Return the losses by step, one row for each of these jobs that has checkpoints.

        The column `n` is the job's position in `jobs`, from 1. The points are thinned evenly to `points` at most.
        """
        return await self._connection.fetch(queries.LIST_CURVES, sources, jobs, points)

    async def list_sources(self, configured: Sequence[str]) -> list[Record]:
        """Return the sources and their states, and which of them have one of the `configured` names."""
        return await self._connection.fetch(queries.LIST_SOURCES, configured)

    async def read_job(self, source: str, job: str) -> Record | None:
        """Return one job, or None if it was never tracked."""
        return await self._connection.fetchrow(queries.READ_JOB, source, job)

    async def list_findings(self, source: str | None, job: str | None, most: int) -> list[Record]:
        """Return open findings, of one job or of all. `total` of each row is the number of all of them."""
        return await self._connection.fetch(queries.LIST_FINDINGS, source, job, most)

    async def list_training(self, sources: Sequence[str], jobs: Sequence[str], names: int) -> list[Record]:
        """Return how far the training of each of these jobs has come, when it began, and up to `names` of its metrics.

        The column `n` is the job's position in `jobs`, from 1. A job that does not exist has no row.
        """
        return await self._connection.fetch(queries.LIST_TRAINING, sources, jobs, names)

    async def list_comparison(self, sources: Sequence[str], jobs: Sequence[str]) -> list[Record]:
        """Return what each of these jobs was given and what came of it. A job that does not exist has no row."""
        return await self._connection.fetch(queries.LIST_COMPARISON, sources, jobs)

    async def list_step_curves(self, jobs: Sequence[CurveRequest], names: Sequence[str], parts: int) -> list[Record]:
        """Return the curves of these jobs, reduced to the extremes in each of `parts` parts of the axis.

        `names` are the metrics to read that have no column of their own. The column `n` is the job's position, from 1.
        """
        return await self._connection.fetch(queries.LIST_STEP_CURVES, *zip(*jobs, strict=True), names, parts)

    async def read_best_step(self, source: str, job: str) -> Record | None:
        """Return the best step of a job's curve, or None if no step has the metric. This reads all steps."""
        return await self._connection.fetchrow(queries.READ_BEST_STEP, source, job)

    async def list_job_curve(self, source: str, job: str, points: int, names: Sequence[str]) -> list[Record]:
        """Return the metrics of a job's checkpoints, thinned evenly to `points` at most, and those of the best one.

        The column `extras` has the metrics with these `names`.
        """
        return await self._connection.fetch(queries.LIST_JOB_CURVE, source, job, points, names)

    async def list_job_messages(self, source: str, job: str, size: int) -> list[Record]:
        """Return up to `size` messages of a job, the newest first."""
        return await self._connection.fetch(queries.LIST_JOB_MESSAGES, source, job, size)

    async def list_job_checkpoints(self, source: str, job: str, size: int, skipped: int) -> list[Record]:
        """Return up to `size` checkpoints of a job, the last step first, without the first `skipped` ones."""
        return await self._connection.fetch(queries.LIST_JOB_CHECKPOINTS, source, job, size, skipped)

    async def list_job_changes(self, source: str, job: str, before: int, size: int) -> list[Record]:
        """Return up to `size` changes of a job whose `seq` is less than `before`, the newest first."""
        return await self._connection.fetch(queries.LIST_JOB_CHANGES, source, job, before, size)


@asynccontextmanager
async def snapshot(store: Store) -> AsyncIterator[Snapshot]:
    """Open a snapshot. Raises DatabaseUnavailableError."""
    async with (
        store.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield Snapshot(connection)
