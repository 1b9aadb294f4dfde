"""Save the job records of a job list. Each changed status becomes a row of the feed.

Like polls (save.py), records are read and compared without locks, and written by one statement, which is the whole
transaction: while the job list is leased, nobody else writes them. A record that the database rejects becomes a reject,
and one whose job another transaction has locked, such as that of an operator, is left out. The others are saved.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from checkpointd.domain.job import JobPage, JobRecord, has_ended, is_waiting
from checkpointd.domain.json_text import canonical
from checkpointd.domain.raw_item import LARGEST_ITEM
from checkpointd.domain.reading import Reject
from checkpointd.postgres import connection as connection_module
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.errors import repeated, why_rejected
from checkpointd.postgres.isolation import isolate
from checkpointd.postgres.job_lists import JobListLease
from checkpointd.postgres.rows import RecordRow, RejectRow, StatusRow, columns
from checkpointd.postgres.save_rows import MOST_REJECTS, reject_rows
from checkpointd.postgres.store import Store

PART_CHARACTERS: Final = 32_768
"""The most characters of records that a statement takes, so that a slow line can carry it in time."""


class SavedPage(NamedTuple):
    """A page of a job list that was saved: how many statuses changed, the rejects, and the ids of missing jobs."""

    statuses: int
    rejects: list[Reject]
    missing: set[str]
    """Jobs of the page whose checkpoints the provider does not find."""


class _Saved(NamedTuple):
    """Records that were saved: how many statuses changed, the rejects, and the records whose jobs were locked."""

    statuses: int
    rejects: list[Reject]
    locked: list[JobRecord]
    missing: Sequence[str] = ()


async def save_job_records(
    store: Store,
    lease: JobListLease,
    page: JobPage,
    known: Collection[bytes] = (),
    passing_members: Collection[str] = (),
) -> SavedPage:
    """Save the records of tracked jobs that differ, and the rejects, if the lease still holds.

    A record that differs from the stored one only in `passing_members`, which change by themselves, is not saved.
    A reject of which nothing is stored is not saved again if its key is in `known`. A changed status makes its job due
    at once: a job that has ended is listed once more, and a job that goes on again is polled again. If a job stays
    locked for longer than LOCK_RETRY_DELAYS, its record is saved when the job list is read the next time.
    """
    statuses, rejects, missing, remaining = 0, list(page.rejects), set[str](), page.records
    for delay in (0, *connection_module.LOCK_RETRY_DELAYS):
        await asyncio.sleep(delay)
        async with store.connection() as connection:
            saved = await _save_differing(connection, lease, remaining, passing_members)
        statuses, remaining = statuses + saved.statuses, saved.locked
        rejects += saved.rejects
        missing.update(saved.missing)
        if not remaining:
            break
    if new := [reject for reject in rejects if not reject.is_stored and reject.key not in known]:
        async with store.connection() as connection:
            await _save_rejects(connection, lease, new)
    return SavedPage(statuses, rejects, missing)


async def _save_rejects(connection: Connection, lease: JobListLease, rejects: Sequence[Reject]) -> None:
    rows = await connection.fetch(queries.READ_STORED_JOBS, lease.source, [r.id for r in rejects if r.id])
    jobs = {row["id"]: row["key"] for row in rows}
    await _write(connection, lease, {}, [], [(jobs.get(r.id, -lease.source), r) for r in rejects])


async def _save_differing(
    connection: Connection, lease: JobListLease, records: Sequence[JobRecord], passing_members: Collection[str]
) -> _Saved:
    rows = await connection.fetch(queries.READ_STORED_JOBS, lease.source, [record.id for record in records])
    stored = {row["id"]: row for row in rows}
    old = {row["key"]: row["status"] for row in rows}
    differing = {
        stored[record.id]["key"]: record
        for record in records
        if record.id in stored and stored[record.id]["digest"] != sha256(record.payload.encode()).digest()
    }
    parts = []
    for part in _parts(differing):
        received = [key for key, record in part.items() if stored[record.id]["digest"] is not None]
        equal = await _find_equal(connection, part, received, passing_members) if received else set()
        remaining = {key: record for key, record in part.items() if key not in equal}
        parts.append(await _save_valid(connection, lease, remaining, old))
    return _total(parts)._replace(missing=[row["id"] for row in rows if row["is_missing"]])


def _parts(records: Mapping[int, JobRecord]) -> Iterator[dict[int, JobRecord]]:
    """Yield records in parts of PART_CHARACTERS at most, or of one record that is longer."""
    part: dict[int, JobRecord] = {}
    length = 0
    for key, record in records.items():
        length += len(record.payload)
        if part and length > PART_CHARACTERS:
            yield part
            part, length = {}, len(record.payload)
        part[key] = record
    if part:
        yield part


def _total(parts: Sequence[_Saved]) -> _Saved:
    return _Saved(
        sum(part.statuses for part in parts),
        [reject for part in parts for reject in part.rejects],
        [record for part in parts for record in part.locked],
    )


async def _find_equal(
    connection: Connection,
    records: Mapping[int, JobRecord],
    received: Sequence[int],
    passing_members: Collection[str],
) -> set[int]:
    """Return those of the received jobs whose record has the stored content in other bytes, by their keys.

    Stored payloads are read for this: few, unless the provider reorders the members at each request, or has changed
    passing members.
    """
    rows = await connection.fetch(queries.READ_STORED_PAYLOADS, received, LARGEST_ITEM)
    payloads = [(row["key"], row["payload"], records[row["key"]].payload) for row in rows]
    return await asyncio.to_thread(_equal, payloads, passing_members)


def _equal(payloads: Sequence[tuple[int, str, str]], passing_members: Collection[str]) -> set[int]:
    """Return the keys whose two JSON texts have the same content, apart from passing members."""
    contents = [(key, canonical(stored, passing_members), received) for key, stored, received in payloads]
    return {key for key, content, received in contents if content and content == canonical(received, passing_members)}


async def _save_valid(
    connection: Connection, lease: JobListLease, records: Mapping[int, JobRecord], old: Mapping[int, Any]
) -> _Saved:
    """Save records by the keys of their jobs. One with a value that the database rejects becomes a reject."""

    async def save(keys: Sequence[int]) -> _Saved:
        return await _save_unlocked(connection, lease, {key: records[key] for key in keys}, old)

    parts, rejected = await isolate(save, list(records))
    saved = _total(parts)
    found = [(records[key], error) for key, error in rejected]
    rejects = [Reject(record.payload.encode("utf-8", "replace"), why_rejected(e), record.id) for record, e in found]
    return saved._replace(rejects=saved.rejects + rejects)


async def _save_unlocked(
    connection: Connection, lease: JobListLease, records: Mapping[int, JobRecord], old: Mapping[int, Any]
) -> _Saved:
    """Save the records of those jobs of which no other transaction has locked a row."""
    if not records:
        return _Saved(0, [], [])
    changed = [(key, r.status) for key, r in records.items() if r.status is not None and r.status != old[key]]
    statuses = [StatusRow(key, has_ended(status), is_waiting(status), old[key], status) for key, status in changed]
    flaws = [(key, record.reject) for key, record in records.items() if record.reject]
    saved = await _write(connection, lease, records, statuses, flaws)
    if saved is None:  # the lease was lost to another daemon, which reads the job list again
        return _Saved(0, [], [])
    if len(saved) == len(records):
        return _Saved(len(statuses), [reject for _, reject in flaws], [])
    rest = await _save_unlocked(connection, lease, {key: records[key] for key in saved}, old)
    locked = [record for key, record in records.items() if key not in saved]
    return rest._replace(locked=[*rest.locked, *locked])


async def _write(
    connection: Connection,
    lease: JobListLease,
    records: Mapping[int, JobRecord],
    statuses: Sequence[StatusRow],
    rejects: Sequence[tuple[int, Reject]],
) -> list[int] | None:
    """Save all of this or nothing, and return the jobs whose records can be saved, or None if the lease was lost."""
    (row,) = await repeated(
        lambda: connection.fetch(
            queries.SAVE_JOB_RECORDS,
            lease.source,
            lease.lease_token,
            MOST_REJECTS,
            *columns(RecordRow, [RecordRow(key, *record[1:-1]) for key, record in records.items()]),
            *columns(StatusRow, statuses),
            *columns(RejectRow, reject_rows(rejects)),
        )
    )
    saved: list[int] | None = row["saved"]
    return saved
