"""Claim, read and finish the job lists of sources. Each statement is its own transaction."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from checkpointd.domain.job_list import NEW_JOB_DAYS, PassState
from checkpointd.postgres import queries
from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.store import UNDO_SECONDS, Store, finish_or_undo


class JobListLease(NamedTuple):
    """A claimed job list."""

    source: int
    lease_token: int
    source_may_recover: bool
    """True if the state of the source is not `ok`, and is `ok` again if its job list can be read."""
    was_read: bool
    """True if it was ever read to its end, or a pass has read a part of it."""
    state: PassState


class Discovered(NamedTuple):
    """How many listed jobs are tracked for the first time, and how many were left out, because too many are new."""

    new: int
    left_out: int


async def claim(store: Store, source: int, lease_seconds: float, gap: float, *, due_or_not: bool) -> list[JobListLease]:
    """Lease the job list of a source if it is due; with `due_or_not`, always.

    Returns no lease if the list is leased already. If cancelled, releases it again: it is due after `gap` seconds.
    """

    async def leases() -> list[JobListLease]:
        rows = await store.fetch(queries.CLAIM_JOB_LISTS, [source], lease_seconds, due_or_not)
        return [
            JobListLease(source, token, may_recover, was_read, PassState(*state))
            for source, token, may_recover, was_read, *state in rows
        ]

    async def undo(claimed: Sequence[JobListLease]) -> None:
        for lease in claimed:
            await finish(store, lease, gap, whole=False, error=None)

    return await finish_or_undo(leases(), undo)


async def finish(store: Store, lease: JobListLease, gap: float, *, whole: bool, error: str | None) -> None:
    """Give the lease of a job list back.

    `gap` is the number of seconds from the claim to the next reading, `whole` whether a pass has read the list to
    its end, and `error` why it could not be read, or None. A task that is being cancelled waits for UNDO_SECONDS at
    most.
    """
    task = asyncio.current_task()
    finish = store.fetch(queries.FINISH_JOB_LIST, lease.source, lease.lease_token, gap, whole, error)
    async with database_deadline_in(UNDO_SECONDS if task and task.cancelling() else None):
        await finish_or_undo(finish)


async def save_cursor(store: Store, lease: JobListLease, cursor: str | None, pages: int) -> bool:
    """Save where the pass over a job list can be resumed, or None to start it again. False: the lease was lost."""
    return bool(await store.fetch(queries.SAVE_JOB_LIST_CURSOR, lease.source, lease.lease_token, cursor, pages))


async def find_unfinished_jobs(store: Store, source: int, ended_statuses: Sequence[str], most: int) -> set[str]:
    """Find the newest tracked jobs whose last known status is not final, except sealed ones. Returns their ids."""
    rows = await store.fetch(queries.FIND_UNFINISHED_JOBS, source, ended_statuses, most)
    return {row["id"] for row in rows}


async def discover(store: Store, lease: JobListLease, ids: Sequence[str], per_day: int) -> Discovered:
    """Track those of the listed jobs that were never tracked before, if the lease still holds.

    All daemons together track at most `per_day` new jobs per day; what is unused adds up for NEW_JOB_DAYS.
    """
    arguments = lease.source, lease.lease_token, ids, per_day, NEW_JOB_DAYS
    return Discovered(*(await store.fetch(queries.DISCOVER_JOBS, *arguments))[0])


async def record_listed(store: Store, lease: JobListLease, ids: Sequence[str]) -> None:
    """Record that the job list shows jobs that are missing, if the lease still holds. Makes gone ones due."""
    await store.fetch(queries.RECORD_LISTED_JOBS, lease.source, lease.lease_token, ids)
