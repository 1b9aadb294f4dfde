"""What a save writes: the listings of polls, compared with the stored checkpoints of their jobs. Reads only."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, Self

import asyncpg
from msgspec.structs import replace

from checkpointd.domain.cadence import FAILURE_CAP
from checkpointd.domain.checkpoint import METRICS, Checkpoint, CheckpointReader
from checkpointd.domain.diff import MOST_CHANGES, Diff, StoredCheckpoint, Value, values
from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.growth import CHECKPOINTS_PER_JOB, JobBefore, examine, is_unstable
from checkpointd.domain.poll import PollResult, SavedPoll
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection

STORED_BYTES: Final = 16 * 1024 * 1024
LARGEST_JOB_BYTES: Final = 48 * 1024 * 1024
"""The most memory that the stored checkpoints may take with which listings are compared at once, and those of one job.
Ten thousand checkpoints with a hundred thousand metrics without a column take so much."""

PAYLOAD_BYTES: Final = 1024
"""A save of so many items reads so many bytes of stored payloads for each of them. An item counts as one more for each
PAYLOAD_BYTES that its text takes in memory."""

SLOW_CONNECTION: Final = "the connection to the database is too slow to save the whole listing at once"

STORED_AT_ONCE: Final = 256 * 1024
"""With more stored checkpoints than this, listings are compared in a thread, so that the event loop is not blocked."""

BURST: Final = 3
"""More new checkpoints than this in one poll are a burst. If the first ones of a job are a burst that begins too late,
earlier ones may have come and gone unseen, because providers list only those of the last three epochs."""

_VALUES: Final = ("step_number", "created_at", "fine_tuned_model_checkpoint", *METRICS)


class ComparedPoll(NamedTuple):
    """A poll that holds its lease, and what differs between its listing and the stored checkpoints."""

    poll: PollResult
    """The poll, with a reject for each checkpoint that is too many."""
    diff: Diff
    is_without_news: bool
    """True for a quiet poll of an unstable job: its listing differs from the last one, but has no news."""
    is_burst: bool
    """True if more than BURST checkpoints are new, and everything that was listed before is stored."""

    @property
    def saved(self) -> SavedPoll:
        """The poll, once it is saved."""
        poll, diff = self.poll, self.diff
        return SavedPoll(
            poll,
            len(diff.new),
            diff.changed,
            len(poll.listing.rejects) if poll.listing else 0,
            became_unstable=is_unstable(diff.instability) and not is_unstable(poll.lease.instability),
        )

    def limited(self, most: int) -> Self:
        """Return the poll with the first `most` new and changed checkpoints, as incomplete if there are more.

        It is due again at once, and the next poll finds the others.
        """
        diff, listed = self.diff, [*self.diff.new, *self.diff.updated][:most]
        if len(diff.new) + len(diff.updated) <= most:
            return self.cut_off() if diff.is_cut_off else self
        ids = {checkpoint.id for checkpoint in listed}
        part = Diff(
            new=diff.new[:most],
            updated=listed[len(diff.new) :],
            absent=[*diff.absent, *(name for name, missing in diff.marked.items() if missing)],
            changes=[change for change in diff.changes if change.checkpoint_id in ids and change.kind != "returned"],
            instability=self.poll.lease.instability,
        )
        poll = _incomplete(self.poll, SLOW_CONNECTION)
        return self._replace(poll=replace(poll, delay=0), diff=part, is_burst=False)

    def cut_off(self) -> Self:
        """Return the poll as incomplete, because not all of its checkpoints were compared."""
        return self._replace(poll=_incomplete(self.poll, f"more than {MOST_CHANGES} changes"), is_burst=False)


def _incomplete(poll: PollResult, reason: str) -> PollResult:
    return replace(
        poll, complete=False, content_digest=None, error_class=ErrorClass.INTERNAL, error=reason, blames_job=False
    )


async def compare_polls(connection: Connection, polls: Sequence[PollResult], most_items: int) -> list[ComparedPoll]:
    """Compare the listings of polls with the stored checkpoints, without those that lost their lease.

    While a poll holds its lease, no other poll changes what is read here. If the stored payloads that differ from what
    is listed take more than PAYLOAD_BYTES for each of `most_items`, a part of them is compared, and the poll counts as
    incomplete. It is due again at once if a value of this part changed.
    """
    compared: list[ComparedPoll] = []
    while polls:
        listed = [(poll.lease.job, item) for poll in polls if poll.listing for item in poll.listing.checkpoints]
        rows = await connection.fetch(
            queries.READ_POLLS,
            [poll.lease.job for poll in polls],
            [poll.lease.lease_token for poll in polls],
            [poll.listing is not None for poll in polls],
            [job for job, _ in listed],
            [item.id for _, item in listed],
            [sha256(item.payload.encode("utf-8", "replace")).digest() for _, item in listed],
            CHECKPOINTS_PER_JOB,
            STORED_BYTES,
            LARGEST_JOB_BYTES,
            most_items * PAYLOAD_BYTES,
        )
        # A process suspended past its lease may save two polls of one job: keep the one whose token is current.
        held = {(row["job"], row["lease_token"]): row for row in rows if row["id"] is None}
        leases = [(poll, held.get((poll.lease.job, poll.lease.lease_token))) for poll in polls]
        read = [(poll, row) for poll, row in leases if row and row["is_read"]]
        is_large = sum(row["size"] for _, row in read) > STORED_AT_ONCE
        compared += await asyncio.to_thread(_compare_all, read, rows) if is_large else _compare_all(read, rows)
        polls = [poll for poll, row in leases if row and not row["is_read"]]
    return compared


def _compare_all(
    polls: Sequence[tuple[PollResult, asyncpg.Record]], rows: Sequence[asyncpg.Record]
) -> list[ComparedPoll]:
    """Compare polls, each with a row of its job. `rows` has all rows of these jobs."""
    by_job: dict[int, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        if row["id"] is not None:
            by_job[row["job"]].append(row)
    return [_compare(poll, by_job[poll.lease.job], row) for poll, row in polls]


def _stored_checkpoints(
    rows: Sequence[asyncpg.Record], job_id: str, listed: Mapping[str, Checkpoint], reader: CheckpointReader
) -> Mapping[str, StoredCheckpoint]:
    """Return the stored checkpoints of a job by their ids. `listed` are those of the listing by their ids.

    One whose payload was left out of `rows` seems to have the values that are listed.
    """
    found: dict[str, StoredCheckpoint] = {}
    for row in rows:
        stored: dict[str, Value] = {name: row[name] for name in _VALUES}
        if row["extra_metrics"]:
            extra = json.loads(row["extra_metrics"], parse_int=float)
            stored |= {f"extra_metrics.{name}": value for name, value in extra.items()}
        payload = row["payload"]
        received = listed.get(row["id"]) if payload is None else reader.read_stored(payload, job_id)
        received_values = values(received) if received else stored
        if received and received.details:  # no column has them
            stored |= received.details
        found[row["id"]] = StoredCheckpoint(
            received_values if _is_left_out(row) else stored, received_values, row["missing"]
        )
    return found


def _is_left_out(row: asyncpg.Record) -> bool:
    return row["payload"] is None and not row["is_listed_so"]


def _compare(poll: PollResult, rows: Sequence[asyncpg.Record], held: asyncpg.Record) -> ComparedPoll:
    """Compare a poll with the rows of its stored checkpoints. `held` is the row of the poll."""
    instability = poll.lease.instability
    if held["is_too_large"]:
        poll = _incomplete(poll, f"its stored checkpoints take more than {LARGEST_JOB_BYTES} bytes of memory")
        delay = max(poll.delay, FAILURE_CAP)
        poll = replace(poll, listing=None, error_class=ErrorClass.TOO_LARGE, blames_job=True, gone=False, delay=delay)
    if poll.listing is None:
        return ComparedPoll(poll, Diff(instability=instability), is_without_news=False, is_burst=False)
    listed = {item.id: item for item in poll.listing.checkpoints}
    stored = _stored_checkpoints(rows, poll.lease.id, listed, poll.listing.reader)
    is_whole = not any(_is_left_out(row) and row["id"] in listed for row in rows)
    before = JobBefore(
        instability,
        poll.lease.content_digest,
        dict.fromkeys(held["absent_ids"] or ()).keys(),  # in their order, and found at once
        dict.fromkeys(held["unconfirmed_steps"] or ()).keys(),
        held["checkpoint_count"],
        held["step_count"],
    )
    diff, listing = examine(before, stored, poll.listing, poll.content_digest if poll.complete and is_whole else None)
    if not is_whole:
        poll = replace(_incomplete(poll, SLOW_CONNECTION), delay=0 if diff.changes else poll.delay)
    has_news = bool(diff.changes or diff.unconfirmed_steps) or listing.unreadable != held["rejected"]
    return ComparedPoll(
        replace(poll, listing=listing),
        diff,
        is_without_news=is_unstable(instability) and poll.complete and not has_news,
        is_burst=held["all_stored"] and is_whole and len(diff.new) > BURST,
    )
