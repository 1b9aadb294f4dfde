"""Save the job records of a job list. Each changed status becomes a row of the feed."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from checkpointd.domain.job import JobRecord, has_ended
from checkpointd.postgres import connection as connection_module
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection, transaction
from checkpointd.postgres.rows import ChangeRow, JobRow, WokenRow, columns
from checkpointd.postgres.save_rows import write_changes
from checkpointd.postgres.store import JobListLease, Store


class _LeaseLostError(Exception):
    """The lease was lost to another daemon, which reads the job list again: these records may be outdated."""


async def save_job_records(store: Store, lease: JobListLease, records: Sequence[JobRecord]) -> int:
    """Save the records of tracked jobs that differ, if the lease still holds. Returns how many statuses changed.

    A changed status makes its job due at once: a job that has ended is listed once more, and a job that goes on again
    is polled again. If a job stays locked for longer than LOCK_RETRY_DELAYS, its record is saved when the job list is
    read the next time.
    """
    changed, remaining = 0, records
    for delay in (0, *connection_module.LOCK_RETRY_DELAYS):
        await asyncio.sleep(delay)
        async with store.connection() as connection:
            saved, remaining = await _save_differing(connection, lease, remaining)
        changed += saved
        if not remaining:
            break
    return changed


async def _save_differing(
    connection: Connection, lease: JobListLease, records: Sequence[JobRecord]
) -> tuple[int, list[JobRecord]]:
    """Return how many statuses changed, and the records whose jobs were locked, to be saved later."""
    rows = await connection.fetch(queries.READ_STORED_JOBS, lease.source, [record.id for record in records])
    stored = {row["id"]: row for row in rows}
    differing = {
        stored[record.id]["key"]: record
        for record in records
        if record.id in stored and stored[record.id]["digest"] != sha256(record.payload.encode()).digest()
    }
    old = {row["key"]: row["status"] for row in rows}
    new = {key: r.status for key, r in differing.items() if r.status is not None and r.status != old[key]}
    if not differing:
        return 0, []
    with suppress(_LeaseLostError):
        async with transaction(connection):
            locked = [differing.pop(key) for key in await _wake(connection, old, new)]
            if not await connection.fetch(queries.FENCE_JOB_LIST, lease.source, lease.lease_token):
                raise _LeaseLostError
            if differing:
                updated = [JobRow(key, *record[1:]) for key, record in differing.items()]
                await connection.execute(queries.UPDATE_JOBS, *columns(updated))
            changes = [
                ChangeRow(key, None, "status", None, "status", old[key], new[key]) for key in differing if key in new
            ]
            await write_changes(connection, changes)
        return len(changes), locked
    return 0, []


async def _wake(connection: Connection, old: Mapping[int, Any], new: Mapping[int, Any]) -> list[int]:
    """Record that the statuses of jobs changed; jobs that had a status before become due.

    Returns the keys of the jobs whose rows were locked.
    """
    if not new:
        return []
    rows = [WokenRow(key, ended=has_ended(status), wake=old[key] is not None) for key, status in new.items()]
    woken = {row["job"] for row in await connection.fetch(queries.WAKE_JOBS, *columns(rows))}
    return [key for key in new if key not in woken]
