"""A full lock table: the server has room for a fixed number of locks, and one session can take all of them.

Then no statement can lock a table, and nobody can log in. What a session has done before, it can often do again: the
catalogue entries that it needs for that are in its memory. So each connection of the pool finds the sessions that hold
most locks once when it is opened, and a connection whose statement fails can name them.
"""

from contextlib import suppress

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.errors import DRIVER_ERRORS, LOCK_TABLE_FULL, DatabaseUnavailableError


async def prepare_for_full_lock_table(connection: Connection) -> None:
    """Make this session able to name the holders of locks later. Nothing happens if it may not find them."""
    with suppress(asyncpg.PostgresError):
        await _holders(connection, named=False)


async def name_cause(connection: Connection, error: asyncpg.OutOfMemoryError) -> None:
    """Raise DatabaseUnavailableError with the sessions that hold most locks, if the lock table is full."""
    if LOCK_TABLE_FULL not in str(error):
        return
    for named in (True, False):
        with suppress(*DRIVER_ERRORS):
            holders = await _holders(connection, named=named)
            sessions = ", ".join(f"process {pid} of role {role} ({locks} locks)" for pid, role, locks in holders)
            raise DatabaseUnavailableError(
                f"the lock table is full; sessions holding most locks: {sessions}: end the first with"
                f" pg_terminate_backend({holders[0][0]}) or, if nobody can log in, with kill on the server's machine",
                "LockTableFullError",
            ) from error


async def _holders(connection: Connection, *, named: bool) -> list[tuple[int, str, int]]:
    """Return the process, the name or the number of the role, and the number of locks of up to three sessions."""
    return [tuple(row) for row in await connection.fetch(queries.FIND_LOCK_HOLDERS, named)]
