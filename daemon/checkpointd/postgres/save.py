"""The save of finished polls: many in one commit, fenced by their leases, repeatable after a lost answer.

Quiet polls are one statement, the others one transaction. A value that the database refuses costs its item, no more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import asyncpg
from msgspec.structs import replace

from checkpointd.domain.checkpoint import Item
from checkpointd.domain.listing import Reading, Reject
from checkpointd.postgres import queries
from checkpointd.postgres.connection import UNAVAILABLE, Connection, transaction
from checkpointd.postgres.save_rows import Poll, Saved, write_polls
from checkpointd.postgres.store import Lease, Store

_Save = Callable[[Connection, Sequence[Poll]], Awaitable[dict[int, Saved]]]

MOMENTS: Final = (0.02, 0.1, 0.3)
"""Seconds between tries for a row that is locked: our own transactions are shorter, and others must hold up nobody."""

POISON: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    OverflowError,
    UnicodeEncodeError,
)
"""Errors that a value can cause: trying again as it is would fail again, and hold up the rest of its batch."""

RACES: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)
"""Errors of a moment: the transaction is repeated."""


async def save_quiet(store: Store, polls: Sequence[Poll]) -> list[Saved]:
    """Save polls that found nothing new, in one statement, and consume their leases.

    A poll whose lease is lost is left out of the result, and wrote nothing; so for save_telling.
    """
    async with store.connection() as connection:
        return await _insist(_save_quiet, connection, polls)


async def save_telling(store: Store, polls: Sequence[Poll]) -> list[Saved]:
    """Save polls that have something to tell, in one transaction, and consume their leases."""
    async with store.connection() as connection:
        return await _insist(_save_halving, connection, polls)


async def release(store: Store, leases: Sequence[Lease]) -> None:
    """Give claimed jobs back untouched: due again at once."""
    left = list(leases)
    for pause in (0, *MOMENTS):
        await asyncio.sleep(pause)
        given = await store.fetch(queries.RELEASE_LEASES, [x.job for x in left], [x.lease_token for x in left])
        left = [lease for lease in left if lease.job not in {row["job"] for row in given}]
        if not left:
            return


async def _insist(save: _Save, connection: Connection, polls: Sequence[Poll]) -> list[Saved]:
    """Save polls; those whose row another transaction holds (a status that changed, say) again, a moment later."""
    saved = await save(connection, polls)
    for pause in MOMENTS:
        if not (missed := [p for p in polls if p.lease.job not in saved]):
            break
        await asyncio.sleep(pause)
        try:
            saved |= await save(connection, missed)
        except UNAVAILABLE:  # what is saved is saved
            break
    return list(saved.values())


async def _save_quiet(connection: Connection, polls: Sequence[Poll]) -> dict[int, Saved]:
    rows = await connection.fetch(
        queries.SAVE_QUIET_POLLS,
        [p.lease.job for p in polls],
        [p.lease.lease_token for p in polls],
        [p.gap for p in polls],
        [p.ended for p in polls],
        [p.settled for p in polls],
    )
    kept = {(row["job"], row["lease_token"]): row["rejected"] for row in rows}
    claims = [(p, (p.lease.job, p.lease.lease_token)) for p in polls]
    return {p.lease.job: Saved(p, rejected=kept[claim]) for p, claim in claims if claim in kept}


async def _save_halving(connection: Connection, polls: Sequence[Poll]) -> dict[int, Saved]:
    """Save polls; where a value is poison, halve until its item stands alone, and reject that."""
    try:
        return await _save_retrying(connection, polls)
    except POISON as e:
        if len(polls) > 1:
            half = len(polls) // 2
            return await _save_halving(connection, polls[:half]) | await _save_halving(connection, polls[half:])
        return await _save_retrying(connection, [await _without_poison(connection, polls[0], e)])


async def _save_retrying(connection: Connection, polls: Sequence[Poll]) -> dict[int, Saved]:
    for _ in range(2):
        try:
            return await _save_telling(connection, polls)
        except RACES:
            continue
    return await _save_telling(connection, polls)


async def _without_poison(connection: Connection, poll: Poll, error: Exception) -> Poll:
    """Move the items that the database refuses to the rejects."""
    reading = poll.reading or Reading([], [], None)
    poison = await _find_poison(connection, poll, reading.items)
    if not poison:  # it lies in no item: keep the failure, not the listing
        return replace(
            poll,
            complete=False,
            reading=None,
            error_class="internal",
            error=f"the database refuses it: {_name(error)}",
            blames_job=True,
            gone=False,
        )
    rejects = [
        Reject(i.payload.encode("utf-8", "replace"), f"the database refuses it: {e}", i.id) for i, e in poison.values()
    ]
    items = [i for i in reading.items if i.id not in poison]
    return replace(poll, reading=reading._replace(items=items, rejects=[*reading.rejects, *rejects]))


async def _find_poison(connection: Connection, poll: Poll, items: list[Item]) -> dict[str, tuple[Item, str]]:
    try:
        await _save_telling(connection, [replace(poll, reading=Reading(items, [], None))], keep=False)
    except POISON as e:
        if len(items) <= 1:
            return {item.id: (item, _name(e)) for item in items}
        half = len(items) // 2
        return await _find_poison(connection, poll, items[:half]) | await _find_poison(connection, poll, items[half:])
    return {}


def _name(error: Exception) -> str:
    return type(error).__name__.removesuffix("Error")


async def _save_telling(connection: Connection, polls: Sequence[Poll], *, keep: bool = True) -> dict[int, Saved]:
    """Save polls that have something to tell, in one transaction. `keep` false: only try, then roll back."""
    async with transaction(connection, keep=keep):
        return await write_polls(connection, polls)
