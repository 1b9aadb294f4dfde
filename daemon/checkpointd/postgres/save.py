"""Save finished polls: many in one commit, if they still hold their leases.

Quiet polls take one statement, the others one transaction (save_rows.py). Four kinds of failure are retried:

- Lost answer. The connection broke during the commit, so the outcome is unknown. The save queue (polling/save_queue.py)
  saves the same polls again while their leases last. A save consumes its lease, so the repetition writes nothing if the
  first attempt was committed.
- Locked row. Another transaction holds the row of a job, such as a change of its status. The fence skips locked rows,
  and `_save_locked_again` saves those polls after LOCK_RETRY_DELAYS. So one locked row never blocks a batch.
- Invalid value. The database rejects a value (DATA_ERRORS). `_save_isolating` halves the batch, and then the items of
  the failing poll, until the item is found. It becomes a reject, and the rest is saved.
- Deadlock, serialization failure, or a prepared statement that a migration made invalid (TRANSIENT_ERRORS).
  repeated() runs the transaction again at once, three times in all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg
from msgspec.structs import replace

from checkpointd.domain.checkpoint import Checkpoint
from checkpointd.domain.listing import Listing, Reject
from checkpointd.domain.poll import PollResult, SavedPoll
from checkpointd.postgres import connection as connection_module
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection, transaction
from checkpointd.postgres.errors import DRIVER_ERRORS, repeated
from checkpointd.postgres.rows import QuietRow, columns
from checkpointd.postgres.save_rows import write_polls
from checkpointd.postgres.store import Store

_Save = Callable[[Connection, Sequence[PollResult]], Awaitable[dict[int, SavedPoll]]]

DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    OverflowError,
    UnicodeEncodeError,
)
"""Errors caused by a value: a retry with the same value would fail again."""


async def save_quiet(store: Store, polls: Sequence[PollResult]) -> list[SavedPoll]:
    """Save quiet polls in one statement, and consume their leases.

    A poll whose lease was lost writes nothing and is not in the result. The same applies to save_changed().
    """
    async with store.connection() as connection:
        return await _save_locked_again(_save_quiet, connection, polls)


async def save_changed(store: Store, polls: Sequence[PollResult]) -> list[SavedPoll]:
    """Save polls that are not quiet in one transaction, and consume their leases."""
    async with store.connection() as connection:
        return await _save_locked_again(_save_isolating, connection, polls)


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
    quiet = [QuietRow(p.lease.job, p.lease.lease_token, p.gap, p.ended, p.settled) for p in polls]
    rows = await repeated(lambda: connection.fetch(queries.SAVE_QUIET_POLLS, *columns(quiet)))
    rejected = {(row["job"], row["lease_token"]): row["rejected"] for row in rows}
    leases = [(poll, (poll.lease.job, poll.lease.lease_token)) for poll in polls]
    return {poll.lease.job: SavedPoll(poll, rejected=rejected[lease]) for poll, lease in leases if lease in rejected}


async def _save_isolating(connection: Connection, polls: Sequence[PollResult]) -> dict[int, SavedPoll]:
    """Save polls. If the database rejects a value, halve the batch until the poll with it is found."""
    try:
        return await repeated(lambda: _save_in_transaction(connection, polls))
    except DATA_ERRORS as e:
        if len(polls) == 1:
            valid = await _without_invalid_items(connection, polls[0], e)
            return await repeated(lambda: _save_in_transaction(connection, [valid]))
        half = len(polls) // 2
        return await _save_isolating(connection, polls[:half]) | await _save_isolating(connection, polls[half:])


async def _without_invalid_items(connection: Connection, poll: PollResult, error: Exception) -> PollResult:
    """Return the poll with a reject instead of each checkpoint that the database rejects.

    If no single item causes the error, return the poll as a failure of the job, without the listing.
    """
    listing = poll.listing or Listing([], [], None)
    invalid = await _find_invalid_items(connection, poll, listing.checkpoints)
    if not invalid:
        return replace(
            poll,
            complete=False,
            listing=None,
            error_class="internal",
            error=f"the database rejects it: {_name(error)}",
            blames_job=True,
            gone=False,
        )
    rejects = [
        Reject(item.payload.encode("utf-8", "replace"), f"the database rejects it: {reason}", item.id)
        for item, reason in invalid.values()
    ]
    checkpoints = [item for item in listing.checkpoints if item.id not in invalid]
    return replace(poll, listing=listing._replace(checkpoints=checkpoints, rejects=[*listing.rejects, *rejects]))


async def _find_invalid_items(
    connection: Connection, poll: PollResult, items: list[Checkpoint]
) -> dict[str, tuple[Checkpoint, str]]:
    """Return the items that the database rejects, each with the reason, by id. Nothing is saved."""
    try:
        await _save_in_transaction(connection, [replace(poll, listing=Listing(items, [], None))], keep=False)
    except DATA_ERRORS as e:
        if len(items) <= 1:
            return {item.id: (item, _name(e)) for item in items}
        half = len(items) // 2
        return await _find_invalid_items(connection, poll, items[:half]) | await _find_invalid_items(
            connection, poll, items[half:]
        )
    return {}


def _name(error: Exception) -> str:
    """Return the name of an error's class, without `Error`. The message is not used, because it may contain values."""
    return type(error).__name__.removesuffix("Error")


async def _save_in_transaction(
    connection: Connection, polls: Sequence[PollResult], *, keep: bool = True
) -> dict[int, SavedPoll]:
    """Save polls in one transaction. If `keep` is false, it is rolled back, which only tests the values."""
    async with transaction(connection, keep=keep):
        return await write_polls(connection, polls)
