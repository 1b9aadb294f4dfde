"""What one save writes of polls that have something to tell: one short transaction, under the fence.

It locks the polling rows that still hold their lease, compares with what is stored, and writes checkpoints, rejects,
polls and changes. Order of locks, here and everywhere: polling by key, sources, feed_gate.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import asyncpg
import msgspec

from checkpointd.domain.cadence import has_ended
from checkpointd.domain.checkpoint import METRICS, Item, reread
from checkpointd.domain.diff import Diff, Known, Value, compare, values
from checkpointd.domain.listing import Reading
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.store import Lease

REJECT_BYTES: Final = 64 * 1024
REJECTS_PER_JOB: Final = 1000
"""What cannot be read is kept, but a job whose every listing is rubbish of a new kind fills no disk."""

BURST: Final = 3
"""Providers list the last three epochs' checkpoints: if more than three come at once, others may have come and gone."""

_COLUMNS: Final = ("step_number", "created_at", "fine_tuned_model_checkpoint", *METRICS)
_COPIED: Final = ("job", "id", *_COLUMNS, "extra_metrics", "payload")


class Poll(msgspec.Struct, frozen=True):
    """A finished poll, with what has become of it and when the next one is due."""

    lease: Lease
    complete: bool
    reading: Reading | None
    """What was listed; None: equal to the last complete listing, or nothing was read."""
    digest: bytes | None
    error_class: str | None
    error: str | None
    blames_job: bool
    """The failure counts against the job, and not against its source."""
    gone: bool
    """The provider has not known the job for long."""
    delay: float
    """Seconds from the claim to the next poll."""
    gap: float
    """The same without back-off: the cadence's own gap."""
    ended: bool
    """The job has ended, as far as anybody can tell."""
    settled: bool
    """So long ago that equal listings may seal it."""
    newest_step: int | None
    """None: no newer step than before."""
    spacing_s: float | None
    spread_s: float | None

    @property
    def quiet(self) -> bool:
        """Complete and equal to the last complete listing."""
        return self.complete and self.reading is None


class Saved(msgspec.Struct, frozen=True):
    """What a poll's save wrote."""

    poll: Poll
    new: int = 0
    changed: int = 0
    rejected: int = 0
    """Items that could not be read, of an equal listing those of the one before."""


async def write_polls(connection: Connection, polls: Sequence[Poll]) -> dict[int, Saved]:
    """Save polls inside the caller's transaction. Returns job → what was written, without those whose lease is lost."""
    fence = await connection.fetch(
        queries.FENCE_POLLS, [p.lease.job for p in polls], [p.lease.lease_token for p in polls]
    )
    held = {row["job"]: row for row in fence}
    # Who was frozen beyond a lease may save the poll of that one and of its next one at once.
    polls = [p for p in polls if p.lease.job in held and p.lease.lease_token == held[p.lease.job]["lease_token"]]
    known = await _read_known(connection, polls)
    diffs = {
        p.lease.job: compare(
            known.get(p.lease.job, {}),
            p.reading,
            complete=p.complete,
            absent_before=held[p.lease.job]["absent_ids"] or (),
        )
        if p.reading
        else Diff()
        for p in polls
    }
    await _write_checkpoints(connection, diffs)
    await _write_rejects(connection, polls)
    await _summarise(connection, diffs, {job for job, row in held.items() if row["knew_all"]})
    rows = await _write_polls(connection, polls, diffs, held)
    await _finish(connection, polls, diffs, rows)
    await write_changes(
        connection,
        ((job, rows.get(job), *change) for job, diff in diffs.items() for change in diff.changes),
    )
    return {
        p.lease.job: Saved(
            p, len(diffs[p.lease.job].new), diffs[p.lease.job].touched, len(p.reading.rejects) if p.reading else 0
        )
        for p in polls
    }


async def _read_known(connection: Connection, polls: Iterable[Poll]) -> Mapping[int, Mapping[str, Known]]:
    listings = {p.lease.job: (p.lease.id, p.reading) for p in polls if p.reading}
    if not listings:
        return {}
    listed = [item.id for _, reading in listings.values() for item in reading.items]
    known: dict[int, dict[str, Known]] = defaultdict(dict)
    for row in await connection.fetch(queries.READ_KNOWN_CHECKPOINTS, list(listings), listed):
        stored: dict[str, Value] = {name: row[name] for name in _COLUMNS}
        if row["extra_metrics"]:
            stored |= {
                f"extra_metrics.{name}": v for name, v in json.loads(row["extra_metrics"], parse_int=float).items()
            }
        received = reread(row["payload"], listings[row["job"]][0])
        known[row["job"]][row["id"]] = Known(
            stored, values(received) if received else stored, row["payload"], row["missing"]
        )
    return known


async def _write_checkpoints(connection: Connection, diffs: Mapping[int, Diff]) -> None:
    if any(diff.new for diff in diffs.values()):
        # Twice as quick as an insert. Who freezes in it holds the rows of its own jobs as long as its connection lives.
        await connection.copy_records_to_table(
            "checkpoints",
            schema_name="checkpointd",
            columns=_COPIED,
            records=(_record(job, item) for job, diff in diffs.items() for item in diff.new),
        )
    if updated := [(job, item, changed) for job, diff in diffs.items() for item, changed in diff.updated]:
        rows = [(job, item.id, changed, *_record(job, item)[2:]) for job, item, changed in updated]
        await connection.execute(queries.UPDATE_CHECKPOINTS, *map(list, zip(*rows, strict=True)))
    if marked := [(job, checkpoint_id, m) for job, diff in diffs.items() for checkpoint_id, m in diff.marked.items()]:
        await connection.execute(queries.MARK_CHECKPOINTS, *map(list, zip(*marked, strict=True)))


async def _summarise(connection: Connection, diffs: Mapping[int, Diff], knew_all: Collection[int]) -> None:
    if changed := {job: job in knew_all and len(diff.new) > BURST for job, diff in diffs.items() if diff.changes}:
        await connection.execute(queries.SUMMARISE_JOBS, list(changed), list(changed.values()))


def _record(job: int, item: Item) -> tuple[object, ...]:
    metrics = item.metrics
    extra = {}
    if metrics.keys() - _METRIC_SET:
        extra = {name: value for name, value in item.extra_metrics.items() if value is not None}
    return (
        job,
        item.id,
        item.step_number,
        item.created_at,
        item.fine_tuned_model_checkpoint,
        *map(metrics.get, METRICS),
        json.dumps(extra) if extra else None,
        item.payload,
    )


_METRIC_SET: Final = frozenset(METRICS)


async def _write_rejects(connection: Connection, polls: Iterable[Poll]) -> None:
    rejects = {
        (p.lease.job, sha256(r.raw or r.reason.encode()).digest()): (r.reason, r.raw and r.raw[:REJECT_BYTES])
        for p in polls
        if p.reading
        for r in p.reading.rejects
    }
    if rejects:
        rows = [(*key, *value) for key, value in sorted(rejects.items())]
        await connection.execute(queries.SAVE_REJECTS, *map(list, zip(*rows, strict=True)), REJECTS_PER_JOB)


async def _write_polls(
    connection: Connection, polls: Iterable[Poll], diffs: Mapping[int, Diff], held: Mapping[int, asyncpg.Record]
) -> dict[int, int]:
    """Write the rows of polls. Returns job → row, for those that have one."""
    rows: dict[int, int] = {}
    new, again = [], []
    for poll in polls:
        job, diff = poll.lease.job, diffs[poll.lease.job]
        items = len(poll.reading.items) if poll.reading else 0
        if diff.changes:
            outcome = "partial" if poll.error_class else "changed"
            new.append((job, outcome, poll.error_class, items, len(diff.new), diff.touched))
        elif not poll.blames_job:  # quiet, or what befell its source, whose row tells it
            continue
        elif poll.error_class == held[job]["error_class"] and held[job]["failure_poll"]:
            rows[job] = held[job]["failure_poll"]
            again.append((rows[job], items))
        else:
            new.append((job, "failed", poll.error_class, items, 0, 0))
    if new:
        for row in await connection.fetch(queries.INSERT_POLLS, *map(list, zip(*new, strict=True))):
            rows[row["job"]] = row["id"]
    if again:
        await connection.execute(queries.EXTEND_POLLS, *map(list, zip(*again, strict=True)))
    return rows


async def _finish(
    connection: Connection, polls: Iterable[Poll], diffs: Mapping[int, Diff], rows: Mapping[int, int]
) -> None:
    finished = [
        (
            p.lease.job,
            p.delay,
            p.gap,
            p.complete,
            bool(diffs[p.lease.job].changes),
            bool(diffs[p.lease.job].changes) and not has_ended(p.lease.status),
            p.digest if p.complete and not diffs[p.lease.job].pending else None,
            "\n".join(diffs[p.lease.job].pending) or None,
            len(p.reading.rejects) if p.reading else None,
            p.error_class,
            p.error,
            rows.get(p.lease.job),
            p.newest_step,
            p.spacing_s,
            p.spread_s,
            p.blames_job,
            p.gone,
        )
        for p in polls
    ]
    if finished:
        await connection.execute(queries.FINISH_POLLS, *map(list, zip(*finished, strict=True)))


async def write_changes(connection: Connection, changes: Iterable[tuple[object, ...]]) -> None:
    """Append to the feed, as the last of a transaction: job, row of polls, kind, checkpoint, field, old, new."""
    if records := list(changes):
        done = await connection.execute(queries.INSERT_CHANGES, *map(list, zip(*records, strict=True)))
        if done != f"INSERT 0 {len(records)}":
            raise RuntimeError("checkpointd.feed_gate has lost its row")
