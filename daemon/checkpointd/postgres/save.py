"""Save finished polls: many in one commit, if they still hold their leases.

Quiet polls take one statement; the others two, which read (comparison.py) and write (save_rows.py). Four kinds of
failure are retried:

- Lost answer. The connection broke during the commit, so the outcome is unknown. The save queue (polling/save_queue.py)
  saves the same polls again while their leases last. A save consumes its lease, so the repetition writes nothing if the
  first attempt was committed.
- Locked row. Another transaction holds the row of a job, such as a change of its status. The fence skips locked rows,
  and `_save_locked_again` saves those polls after LOCK_RETRY_DELAYS. So one locked row never blocks a batch.
- Invalid value. The database rejects a value (DATA_ERRORS). isolate() halves the batch, and then the items of the
  failing poll, until the item is found. It becomes a reject, and the rest is saved.
- Deadlock, serialization failure, or a prepared statement that a migration made invalid (TRANSIENT_ERRORS).
  repeated() runs the transaction again at once, three times in all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec.structs import replace

from checkpointd.domain.checkpoint import Checkpoint
from checkpointd.domain.growth import CHECKPOINTS_PER_JOB, next_score
from checkpointd.domain.listing import Listing
from checkpointd.domain.poll import PollResult, SavedPoll
from checkpointd.domain.reading import Reject
from checkpointd.postgres import connection as connection_module
from checkpointd.postgres import queries
from checkpointd.postgres.comparison import compare_polls
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.errors import DRIVER_ERRORS, repeated, why_rejected
from checkpointd.postgres.isolation import isolate
from checkpointd.postgres.rows import QuietRow, columns
from checkpointd.postgres.save_rows import quiet_row, write_polls
from checkpointd.postgres.store import Store

_Save = Callable[[Connection, Sequence[PollResult]], Awaitable[dict[int, SavedPoll]]]


async def save_quiet(store: Store, polls: Sequence[PollResult]) -> list[SavedPoll]:
    """Save quiet polls in one statement, and consume their leases.

    A poll whose lease was lost writes nothing and is not in the result. The same applies to save_changed().
    """
    async with store.connection() as connection:
        return await _save_locked_again(_save_quiet, connection, polls)


async def save_changed(
    store: Store, polls: Sequence[PollResult], most_items: int = CHECKPOINTS_PER_JOB
) -> list[SavedPoll]:
    """Save polls that are not quiet in one transaction, and consume their leases.

    Of a poll with more than `most_items` new and changed checkpoints only so many are saved, as an incomplete listing.
    """
    async with store.connection() as connection:
        return await _save_locked_again(partial(_save_valid, most_items), connection, polls)


async def _save_locked_again(save: _Save, connection: Connection, polls: Sequence[PollResult]) -> list[SavedPoll]:
    """Save polls, and after LOCK_RETRY_DELAYS save again those whose row was locked by another transaction.

    The result of a save does not show whether a row was locked or a lease was lost. So polls whose lease was lost are
    saved again too, which writes nothing.
    """
    saved = await save(connection, polls)
    for delay in connection_module.LOCK_RETRY_DELAYS:
        if not (missed := [poll for poll in polls if poll.lease.job not in saved]):
            break
        await asyncio.sleep(delay)
        try:
            saved |= await save(connection, missed)
        except DRIVER_ERRORS:  # what the earlier attempts saved is committed, and must be reported
            break
    return list(saved.values())


async def _save_quiet(connection: Connection, polls: Sequence[PollResult]) -> dict[int, SavedPoll]:
    return await _write_quiet(
        connection, [(poll, next_score(poll.lease.instability, unsteady=False)) for poll in polls]
    )


async def _write_quiet(connection: Connection, polls: Sequence[tuple[PollResult, int]]) -> dict[int, SavedPoll]:
    """Save quiet polls, each with the score of instability that its job has after it."""
    quiet = [quiet_row(poll, instability) for poll, instability in polls]
    (row,) = await repeated(lambda: connection.fetch(queries.SAVE_QUIET_POLLS, *columns(QuietRow, quiet)))
    saved = zip(row["saved_job"] or (), row["saved_lease_token"] or (), row["saved_rejected"] or (), strict=True)
    rejected = {(job, lease_token): count for job, lease_token, count in saved}
    leases = [(poll, (poll.lease.job, poll.lease.lease_token)) for poll, _ in polls]
    return {poll.lease.job: SavedPoll(poll, rejected=rejected[lease]) for poll, lease in leases if lease in rejected}


async def _save_valid(most_items: int, connection: Connection, polls: Sequence[PollResult]) -> dict[int, SavedPoll]:
    """Save polls. If the database rejects a value, save the poll with it without the items that have such values."""

    async def save(some: Sequence[PollResult]) -> dict[int, SavedPoll]:
        return await repeated(lambda: _save_compared(connection, some, most_items))

    saved, rejected = await isolate(save, polls)
    saved += [await save([await _without_invalid_items(connection, poll, error)]) for poll, error in rejected]
    return {job: poll for part in saved for job, poll in part.items()}


async def _without_invalid_items(connection: Connection, poll: PollResult, error: Exception) -> PollResult:
    """Return the poll with a reject instead of each checkpoint that the database rejects.

    If no single item causes the error, return the poll as a failure of the job, without the listing.
    """
    listing = poll.listing or Listing([], [], None)

    async def test(items: Sequence[Checkpoint]) -> None:
        await _save_compared(
            connection, [replace(poll, listing=Listing(list(items), [], None, reader=listing.reader))], keep=False
        )

    _, rejected = await isolate(test, listing.checkpoints)
    if not rejected:
        return replace(
            poll,
            complete=False,
            listing=None,
            error_class="internal",
            error=why_rejected(error),
            blames_job=True,
            gone=False,
        )
    invalid = {item.id for item, _ in rejected}
    rejects = [Reject(item.payload.encode("utf-8", "replace"), why_rejected(e), item.id) for item, e in rejected]
    rejects += [reject for reject in listing.rejects if not (reject.is_stored and reject.id in invalid)]
    checkpoints = [item for item in listing.checkpoints if item.id not in invalid]
    return replace(poll, listing=listing._replace(checkpoints=checkpoints, rejects=rejects))


async def _save_compared(
    connection: Connection, polls: Sequence[PollResult], most_items: int = CHECKPOINTS_PER_JOB, *, keep: bool = True
) -> dict[int, SavedPoll]:
    """Compare polls with what is stored, and save them. If not `keep`, only test the values."""
    compared = [one.limited(most_items) for one in await compare_polls(connection, polls, most_items)]
    with_news = [one for one in compared if not one.is_without_news]
    saved: dict[int, SavedPoll] = {}
    while with_news:
        jobs = await write_polls(connection, with_news, keep=keep)
        if len(jobs) == len(with_news):
            saved = {one.poll.lease.job: one.saved for one in with_news}
            break
        with_news = [one for one in with_news if one.poll.lease.job in jobs]
    if keep and (quiet := [(one.poll, one.diff.instability) for one in compared if one.is_without_news]):
        saved |= await _write_quiet(connection, quiet)
    return saved
