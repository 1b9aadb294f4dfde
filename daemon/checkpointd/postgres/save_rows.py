"""Write polls that are not quiet: one message of many rows, which is the whole transaction.

sql/views/saves.sql says why: a client that is suspended or cut off at any moment then holds no lock.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from checkpointd.domain.checkpoint import METRICS, Checkpoint
from checkpointd.domain.growth import is_unstable
from checkpointd.domain.job import has_ended
from checkpointd.domain.poll import PollResult
from checkpointd.domain.raw_item import REJECT_BYTES
from checkpointd.domain.reading import Reject
from checkpointd.postgres import queries
from checkpointd.postgres.comparison import ComparedPoll
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.rows import (
    ChangeRow,
    CheckpointRow,
    Column,
    MarkRow,
    PollRow,
    QuietRow,
    RejectRow,
    columns,
    parameters,
)

MOST_REJECTS: Final = 1000
"""The most rejects that are stored of a job, and of a source if their jobs are not known. Others are only counted: a
broken provider must not fill the disk."""

_METRIC_SET: Final = frozenset(METRICS)


async def write_polls(connection: Connection, compared: Sequence[ComparedPoll], *, keep: bool) -> set[int]:
    """Save all of these polls or none, and return the jobs of those that can be saved.

    A poll cannot be saved if its lease was lost, or if another transaction has locked the row of its job. If `keep` is
    false, nothing is saved, which only tests the values.
    """
    diffs = [(poll.poll.lease.job, poll.diff) for poll in compared]
    checkpoints = [(job, True, item) for job, diff in diffs for item in diff.new]
    checkpoints += [(job, False, item) for job, diff in diffs for item in diff.updated]
    marks = [MarkRow(job, *mark) for job, diff in diffs for mark in diff.marked.items()]
    rejects = [(poll.poll.lease.job, r) for poll in compared if poll.poll.listing for r in poll.poll.listing.rejects]
    changes = [ChangeRow(job, *change) for job, diff in diffs for change in diff.changes if change.kind != "new"]
    (row,) = await connection.fetch(
        queries.SAVE_POLLS,
        keep,
        MOST_REJECTS,
        *columns(PollRow, list(map(_poll_row, compared))),
        *_checkpoint_columns(checkpoints),
        *columns(MarkRow, marks),
        *columns(RejectRow, reject_rows(rejects)),
        *columns(ChangeRow, changes),
    )
    return set(row["saved"])


def _poll_row(compared: ComparedPoll) -> PollRow:
    poll, diff = compared.poll, compared.diff
    unstable = is_unstable(diff.instability)
    # Without a digest the next listing is compared in full: it decides whether an absent checkpoint is missing, or
    # whether an unknown step is real, or it is the first one of a job that is stable again.
    is_pending = diff.absent or diff.unconfirmed_steps or (is_unstable(poll.lease.instability) and not unstable)
    return PollRow(
        job=poll.lease.job,
        lease_token=poll.lease.lease_token,
        delay=poll.delay,
        gap=poll.gap,
        complete=poll.complete,
        reopens=not has_ended(poll.lease.status),
        digest=poll.digest if poll.complete and not is_pending else None,
        content_digest=poll.content_digest,
        absent_ids="\n".join(diff.absent) or None,
        unconfirmed_steps="\n".join(map(str, diff.unconfirmed_steps)) or None,
        instability=diff.instability,
        unstable=unstable,
        rejected=poll.listing.unreadable if poll.listing else None,
        error_class=poll.error_class,
        error=poll.error,
        **poll.arrivals._asdict(),
        blames_job=poll.blames_job,
        gone=poll.gone,
        items=len(poll.listing.checkpoints) if poll.listing else 0,
        new=len(diff.new),
        changed=diff.changed,
        burst=compared.is_burst,
    )


def _checkpoint_columns(checkpoints: Sequence[tuple[int, bool, Checkpoint]]) -> Sequence[Column]:
    """Return the columns of CheckpointRow for checkpoints of jobs, each of which is new or not.

    A backfill has hundreds of thousands of them, and to make rows of them first takes three times as long.
    """
    items = [item for _, _, item in checkpoints]
    metrics = [item.metrics for item in items]
    values: dict[str, Sequence[object]] = {
        "job": [job for job, _, _ in checkpoints],
        "is_new": [is_new for _, is_new, _ in checkpoints],
        "id": [item.id for item in items],
        "step_number": [item.step_number for item in items],
        "created_at": [item.created_at for item in items],
        "fine_tuned_model_checkpoint": [item.fine_tuned_model_checkpoint for item in items],
        **{name: [sent.get(name) for sent in metrics] for name in METRICS},
        "extra_metrics": [_extra_metrics(item) for item in items],
        "payload": [item.payload for item in items],
        "details": [item.details and json.dumps(item.details) for item in items],
    }
    return parameters(CheckpointRow, [values[name] for name in CheckpointRow._fields])


def _extra_metrics(item: Checkpoint) -> str | None:
    """Return the metrics without a column as JSON, or None if there are none."""
    if _METRIC_SET.issuperset(item.metrics):
        return None
    extra = {name: value for name, value in item.extra_metrics.items() if value is not None}
    return json.dumps(extra) if extra else None


def reject_rows(rejects: Iterable[tuple[int, Reject]]) -> list[RejectRow]:
    """Return the rows of rejects, each with its owner. Of the same reject, the first bytes are kept."""
    rows: dict[tuple[int, bytes], RejectRow] = {}
    for owner, reject in rejects:
        raw = reject.raw and reject.raw[:REJECT_BYTES]
        rows.setdefault((owner, reject.key), RejectRow(owner, reject.key, reject.reason, raw, reject.is_stored))
    return [row for _, row in sorted(rows.items())]


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
