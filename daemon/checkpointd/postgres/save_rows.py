"""Write polls that are not quiet, in one short transaction.

First the fence: fence_polls.sql locks the `polling` rows of the polls that still hold their lease. Then the stored
checkpoints are read and compared, and checkpoints, rejects, polls and changes are written. To avoid deadlocks, all
transactions lock in the same order: polling rows by key, sources, the feed gate.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg
from msgspec.structs import replace

from checkpointd.domain.checkpoint import METRICS, Checkpoint, read_stored
from checkpointd.domain.diff import Diff, StoredCheckpoint, Value, values
from checkpointd.domain.growth import CHECKPOINTS_PER_JOB, JobBefore, examine, is_unstable
from checkpointd.domain.job import has_ended
from checkpointd.domain.poll import PollResult, SavedPoll
from checkpointd.domain.reading import Reject
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.rows import (
    ChangeRow,
    ExtendedRow,
    FinishedRow,
    MarkedRow,
    PollRow,
    QuietRow,
    RejectRow,
    SummaryRow,
    UpdatedRow,
    columns,
)

REJECT_BYTES: Final = 64 * 1024
"""The most bytes of a reject that are stored."""

MOST_REJECTS: Final = 1000
"""The most rejects that are stored of a job, and of a source if their jobs are not known. Others are only counted: a
broken provider must not fill the disk."""

BURST: Final = 3
"""More new checkpoints than this in one poll are a burst. If the first ones of a job are a burst that begins too late,
earlier ones may have come and gone unseen, because providers list only those of the last three epochs."""

_METRIC_SET: Final = frozenset(METRICS)
_VALUES: Final = ("step_number", "created_at", "fine_tuned_model_checkpoint", *METRICS)
_COPIED: Final = ("job", "id", *_VALUES, "extra_metrics", "payload")


async def write_polls(connection: Connection, polls: Sequence[PollResult]) -> dict[int, SavedPoll]:
    """Save polls in the caller's transaction. Returns what was saved, by job, without polls that lost their lease."""
    fence = await connection.fetch(
        queries.FENCE_POLLS,
        [p.lease.job for p in polls],
        [p.lease.lease_token for p in polls],
        CHECKPOINTS_PER_JOB,
    )
    held = {row["job"]: row for row in fence}
    # A process suspended past its lease may save two polls of one job: keep the one whose token is current.
    polls = [p for p in polls if p.lease.job in held and p.lease.lease_token == held[p.lease.job]["lease_token"]]
    stored = await _read_stored(connection, polls)
    examined = [_examine(poll, stored.get(poll.lease.job, {}), held[poll.lease.job]) for poll in polls]
    polls, diffs = [poll for poll, _ in examined], {poll.lease.job: diff for poll, diff in examined}
    await _write_checkpoints(connection, diffs)
    await write_rejects(connection, ((p.lease.job, None, r) for p in polls if p.listing for r in p.listing.rejects))
    await _summarise(connection, diffs, {job for job, row in held.items() if row["all_stored"]})
    poll_ids = await _write_polls(connection, polls, diffs, held)
    without_news = {job for poll in polls if _is_without_news(poll, diffs[job := poll.lease.job], held[job])}
    await _finish(connection, [poll for poll in polls if poll.lease.job not in without_news], diffs, poll_ids)
    if quiet := [quiet_row(p, diffs[p.lease.job].instability) for p in polls if p.lease.job in without_news]:
        await connection.execute(queries.SAVE_QUIET_POLLS, *columns(quiet))
    changes = [ChangeRow(job, poll_ids.get(job), *change) for job, diff in diffs.items() for change in diff.changes]
    await write_changes(connection, changes)
    return {p.lease.job: _saved(p, diffs[p.lease.job]) for p in polls}


async def write_changes(connection: Connection, changes: Sequence[ChangeRow]) -> None:
    """Append to the feed. This locks the feed gate until the commit, so it must be the last statement."""
    if changes:
        done = await connection.execute(queries.INSERT_CHANGES, *columns(changes))
        if done != f"INSERT 0 {len(changes)}":
            raise RuntimeError("the row of checkpointd.feed_gate is missing")


def _examine(poll: PollResult, stored: Mapping[str, StoredCheckpoint], held: asyncpg.Record) -> tuple[PollResult, Diff]:
    """Return the poll, with a reject for each checkpoint that is too many, and its diff."""
    instability = poll.lease.instability
    if poll.listing is None:
        return poll, Diff(instability=instability)
    before = JobBefore(
        instability,
        poll.lease.content_digest,
        held["absent_ids"] or (),
        held["unconfirmed_steps"] or (),
        held["checkpoint_count"],
        held["step_count"],
    )
    diff, listing = examine(before, stored, poll.listing, poll.content_digest if poll.complete else None)
    return replace(poll, listing=listing), diff


def _is_without_news(poll: PollResult, diff: Diff, held: asyncpg.Record) -> bool:
    """Return whether a poll of an unstable job is quiet: its listing differs from the last one, but has no news."""
    if not is_unstable(poll.lease.instability) or poll.listing is None or not poll.complete:
        return False
    return not (diff.changes or diff.unconfirmed_steps) and poll.listing.unreadable == held["rejected"]


def quiet_row(poll: PollResult, instability: int) -> QuietRow:
    """Return the row of a quiet poll, after which the job has this score of instability."""
    lease, unstable = poll.lease, is_unstable(instability)
    digest = None if is_unstable(lease.instability) and not unstable else poll.digest
    return QuietRow(
        job=lease.job,
        lease_token=lease.lease_token,
        gap=poll.gap,
        ended=poll.ended,
        settled=poll.settled,
        digest=digest,  # without one, the next listing of a job that is stable again is compared in full
        content_digest=poll.content_digest,
        instability=instability,
        unstable=unstable,
    )


def _saved(poll: PollResult, diff: Diff) -> SavedPoll:
    return SavedPoll(
        poll,
        len(diff.new),
        diff.changed,
        len(poll.listing.rejects) if poll.listing else 0,
        became_unstable=is_unstable(diff.instability) and not is_unstable(poll.lease.instability),
    )


async def _read_stored(
    connection: Connection, polls: Iterable[PollResult]
) -> Mapping[int, Mapping[str, StoredCheckpoint]]:
    """Return the stored checkpoints of these jobs that are listed or not yet missing: job → id → checkpoint."""
    listings = {p.lease.job: (p.lease.id, p.listing) for p in polls if p.listing}
    if not listings:
        return {}
    listed = [checkpoint.id for _, listing in listings.values() for checkpoint in listing.checkpoints]
    found: dict[int, dict[str, StoredCheckpoint]] = defaultdict(dict)
    for row in await connection.fetch(queries.READ_STORED_CHECKPOINTS, list(listings), listed):
        stored: dict[str, Value] = {name: row[name] for name in _VALUES}
        if row["extra_metrics"]:
            extra = json.loads(row["extra_metrics"], parse_int=float)
            stored |= {f"extra_metrics.{name}": value for name, value in extra.items()}
        received = read_stored(row["payload"], listings[row["job"]][0])
        found[row["job"]][row["id"]] = StoredCheckpoint(
            stored, values(received) if received else stored, row["missing"]
        )
    return found


async def _write_checkpoints(connection: Connection, diffs: Mapping[int, Diff]) -> None:
    if any(diff.new for diff in diffs.values()):
        # COPY is twice as fast as an insert. A process suspended inside COPY keeps its rows locked until its connection
        # ends: before version 17, no timeout of PostgreSQL applies meanwhile. This delays only the jobs of its leases.
        await connection.copy_records_to_table(
            "checkpoints",
            schema_name="checkpointd",
            columns=_COPIED,
            records=((job, item.id, *_values(item)) for job, diff in diffs.items() for item in diff.new),
        )
    updated = [UpdatedRow(job, item.id, *_values(item)) for job, diff in diffs.items() for item in diff.updated]
    if updated:
        await connection.execute(queries.UPDATE_CHECKPOINTS, *columns(updated))
    marked = [MarkedRow(job, *mark) for job, diff in diffs.items() for mark in diff.marked.items()]
    if marked:
        await connection.execute(queries.MARK_CHECKPOINTS, *columns(marked))


def _values(item: Checkpoint) -> tuple[Any, ...]:
    """Return the columns of a checkpoint after its job and id."""
    metrics = item.metrics
    extra = {}
    if metrics.keys() - _METRIC_SET:
        extra = {name: value for name, value in item.extra_metrics.items() if value is not None}
    return (
        item.step_number,
        item.created_at,
        item.fine_tuned_model_checkpoint,
        *map(metrics.get, METRICS),
        json.dumps(extra) if extra else None,
        item.payload,
    )


async def write_rejects(connection: Connection, rejects: Iterable[tuple[int | None, int | None, Reject]]) -> None:
    """Store rejects, each with the key of its job or, if that is not known, with the key of its source."""
    rows: dict[tuple[int, int, bytes], RejectRow] = {}
    for job, source, reject in rejects:
        raw = reject.raw and reject.raw[:REJECT_BYTES]
        row = RejectRow(job, source, reject.key, reject.reason, raw, reject.is_stored)
        rows.setdefault((job or 0, source or 0, reject.key), row)  # of the same reject, the first bytes are kept
    if rows:
        in_order = [row for _, row in sorted(rows.items())]
        await connection.execute(queries.SAVE_REJECTS, *columns(in_order), MOST_REJECTS)


async def _summarise(connection: Connection, diffs: Mapping[int, Diff], all_stored: Collection[int]) -> None:
    """Rewrite the summaries of changed jobs. A burst counts only if everything that was listed before is stored."""
    rows = [
        SummaryRow(job, burst=job in all_stored and len(diff.new) > BURST)
        for job, diff in diffs.items()
        if diff.changes
    ]
    if rows:
        await connection.execute(queries.SUMMARISE_JOBS, *columns(rows))


async def _write_polls(
    connection: Connection, polls: Iterable[PollResult], diffs: Mapping[int, Diff], held: Mapping[int, asyncpg.Record]
) -> dict[int, int]:
    """Write the rows of the table polls. Returns their ids by job, for the jobs that have one.

    A failure equal to the one before extends its row. Quiet polls and failures of the source have no row.
    """
    ids: dict[int, int] = {}
    new: list[PollRow] = []
    extended: list[ExtendedRow] = []
    for poll in polls:
        job, diff = poll.lease.job, diffs[poll.lease.job]
        items = len(poll.listing.checkpoints) if poll.listing else 0
        if diff.changes:
            outcome = "partial" if poll.error_class else "changed"
            new.append(PollRow(job, outcome, poll.error_class, items, len(diff.new), diff.changed))
        elif not poll.blames_job:
            continue
        elif poll.error_class == held[job]["error_class"] and held[job]["failure_poll"]:
            ids[job] = held[job]["failure_poll"]
            extended.append(ExtendedRow(ids[job], items))
        else:
            new.append(PollRow(job, "failed", poll.error_class, items, 0, 0))
    if new:
        ids |= {row["job"]: row["id"] for row in await connection.fetch(queries.INSERT_POLLS, *columns(new))}
    if extended:
        await connection.execute(queries.EXTEND_POLLS, *columns(extended))
    return ids


async def _finish(
    connection: Connection, polls: Iterable[PollResult], diffs: Mapping[int, Diff], poll_ids: Mapping[int, int]
) -> None:
    """Write the rows of the table polling, which consumes the leases."""
    rows = [_finished(poll, diffs[poll.lease.job], poll_ids.get(poll.lease.job)) for poll in polls]
    if rows:
        await connection.execute(queries.FINISH_POLLS, *columns(rows))


def _finished(poll: PollResult, diff: Diff, poll_id: int | None) -> FinishedRow:
    changed, unstable = bool(diff.changes), is_unstable(diff.instability)
    # Without a digest the next listing is compared in full: it decides whether an absent checkpoint is missing, or
    # whether an unknown step is real, or it is the first one of a job that is stable again.
    is_pending = diff.absent or diff.unconfirmed_steps or (is_unstable(poll.lease.instability) and not unstable)
    return FinishedRow(
        job=poll.lease.job,
        delay=poll.delay,
        gap=poll.gap,
        complete=poll.complete,
        changed=changed,
        reopens=changed and not has_ended(poll.lease.status),
        digest=poll.digest if poll.complete and not is_pending else None,
        content_digest=poll.content_digest,
        absent_ids="\n".join(diff.absent) or None,
        unconfirmed_steps="\n".join(map(str, diff.unconfirmed_steps)) or None,
        instability=diff.instability,
        unstable=unstable,
        rejected=poll.listing.unreadable if poll.listing else None,
        error_class=poll.error_class,
        error=poll.error,
        poll=poll_id,
        newest_step=poll.newest_step,
        spacing_s=poll.spacing_s,
        spread_s=poll.spread_s,
        blames_job=poll.blames_job,
        gone=poll.gone,
    )
