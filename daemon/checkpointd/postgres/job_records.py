"""Save the job records of a job list. Each changed status becomes a row of the feed.

A record that the database rejects becomes a reject: the batch is halved until it is alone, and the others are saved.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

from checkpointd.domain.job import JobPage, JobRecord, has_ended
from checkpointd.domain.reading import Reject
from checkpointd.postgres import connection as connection_module
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection, transaction
from checkpointd.postgres.errors import DATA_ERRORS, why_rejected
from checkpointd.postgres.rows import ChangeRow, JobRow, WokenRow, columns
from checkpointd.postgres.save_rows import write_changes, write_rejects
from checkpointd.postgres.store import JobListLease, Store


class _LeaseLostError(Exception):
    """The lease was lost to another daemon, which reads the job list again: these records may be outdated."""


class SavedPage(NamedTuple):
    """A page of a job list that was saved: how many statuses changed, and the rejects."""

    statuses: int
    rejects: list[Reject]


class _Saved(NamedTuple):
    """Records that were saved: how many statuses changed, the rejects, and the records whose jobs were locked."""

    statuses: int
    rejects: list[Reject]
    locked: list[JobRecord]


async def save_job_records(
    store: Store, lease: JobListLease, page: JobPage, known: Collection[bytes] = ()
) -> SavedPage:  # fmt: skip
    """Save the records of tracked jobs that differ, and the rejects, if the lease still holds.

    A reject of which nothing is stored is not saved again if its key is in `known`. A changed status makes its job due
    at once: a job that has ended is listed once more, and a job that goes on again is polled again. If a job stays
    locked for longer than LOCK_RETRY_DELAYS, its record is saved when the job list is read the next time.
    """
    statuses, rejects, remaining = 0, list(page.rejects), page.records
    for delay in (0, *connection_module.LOCK_RETRY_DELAYS):
        await asyncio.sleep(delay)
        async with store.connection() as connection:
            saved = await _save_differing(connection, lease, remaining)
        statuses, remaining = statuses + saved.statuses, saved.locked
        rejects += saved.rejects
        if not remaining:
            break
    if new := [reject for reject in rejects if not reject.is_stored and reject.key not in known]:
        async with store.connection() as connection:
            await _save_rejects(connection, lease, new)
    return SavedPage(statuses, rejects)


async def _save_rejects(connection: Connection, lease: JobListLease, rejects: Sequence[Reject]) -> None:
    rows = await connection.fetch(queries.READ_STORED_JOBS, lease.source, [r.id for r in rejects if r.id])
    jobs = {row["id"]: row["key"] for row in rows}
    owned = [(jobs[r.id], None, r) if r.id in jobs else (None, lease.source, r) for r in rejects]
    with suppress(_LeaseLostError):
        async with transaction(connection):
            await _fence(connection, lease)
            await write_rejects(connection, owned)


async def _save_differing(connection: Connection, lease: JobListLease, records: Sequence[JobRecord]) -> _Saved:
    rows = await connection.fetch(queries.READ_STORED_JOBS, lease.source, [record.id for record in records])
    stored = {row["id"]: row for row in rows}
    differing = {
        stored[record.id]["key"]: record
        for record in records
        if record.id in stored and stored[record.id]["digest"] != sha256(record.payload.encode()).digest()
    }
    if not differing:
        return _Saved(0, [], [])
    with suppress(_LeaseLostError):
        return await _save_isolating(connection, lease, differing, {row["key"]: row["status"] for row in rows})
    return _Saved(0, [], [])


async def _save_isolating(
    connection: Connection, lease: JobListLease, records: Mapping[int, JobRecord], old: Mapping[int, Any]
) -> _Saved:
    """Save records by the keys of their jobs. If the database rejects a value, halve them until it is found."""
    try:
        return await _save_in_transaction(connection, lease, records, old)
    except DATA_ERRORS as e:
        keys = list(records)
        if len(keys) == 1:
            (record,) = records.values()
            return _Saved(0, [Reject(record.payload.encode("utf-8", "replace"), why_rejected(e), record.id)], [])
        halves = [{key: records[key] for key in half} for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :])]
        one, other = [await _save_isolating(connection, lease, half, old) for half in halves]
        return _Saved(one.statuses + other.statuses, one.rejects + other.rejects, one.locked + other.locked)


async def _save_in_transaction(
    connection: Connection, lease: JobListLease, records: Mapping[int, JobRecord], old: Mapping[int, Any]
) -> _Saved:
    differing = dict(records)
    new = {key: r.status for key, r in differing.items() if r.status is not None and r.status != old[key]}
    async with transaction(connection):
        locked = [differing.pop(key) for key in await _wake(connection, old, new)]
        await _fence(connection, lease)
        if differing:
            updated = [JobRow(key, *record[1:-1]) for key, record in differing.items()]
            await connection.execute(queries.UPDATE_JOBS, *columns(updated))
        changes = [
            ChangeRow(key, None, "status", None, "status", old[key], new[key]) for key in differing if key in new
        ]
        flaws = {key: record.reject for key, record in differing.items() if record.reject}
        await write_rejects(connection, ((key, None, reject) for key, reject in flaws.items()))
        await write_changes(connection, changes)
    return _Saved(len(changes), list(flaws.values()), locked)


async def _fence(connection: Connection, lease: JobListLease) -> None:
    """Lock the source. Raises _LeaseLostError if the lease was lost."""
    if not await connection.fetch(queries.FENCE_JOB_LIST, lease.source, lease.lease_token):
        raise _LeaseLostError


async def _wake(connection: Connection, old: Mapping[int, Any], new: Mapping[int, Any]) -> list[int]:
    """Record that the statuses of jobs changed; jobs that had a status before become due.

    Returns the keys of the jobs whose rows were locked.
    """
    if not new:
        return []
    rows = [WokenRow(key, ended=has_ended(status), wake=old[key] is not None) for key, status in new.items()]
    woken = {row["job"] for row in await connection.fetch(queries.WAKE_JOBS, *columns(rows))}
    return [key for key in new if key not in woken]
