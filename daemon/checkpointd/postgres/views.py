"""Replace the views and functions of sql/views, so that readers never see one missing.

PostgreSQL can replace a view or a function in place (`create or replace`), which keeps everything that others have
built on it: grants, views, indexes. It cannot do that if the arguments or the result of a function change, or if a view
changes a column instead of gaining one. Then what exists is set aside: it gets another name, under which whatever uses
it goes on working. Everything is created anew, with the owner and the grants of what it replaces, and what was set
aside is dropped. At first only the private functions are set aside: they change often, and only our own views use them.
Public functions and views follow only if that is not enough. The contract forbids such changes, but development
versions made them.

What somebody still uses is not dropped, because an upgrade must neither fail because of a view of somebody else nor
destroy it. It keeps its other name, find_obstacles.sql reports the view, and the next upgrade tries again to drop it.

A migration that removes a column which a view uses, or changes its type, renames the column to `outdated NAME`. It is
dropped here, too. A release that removes a view or function drops it by a statement in sql/views: what is not created
there may belong to somebody else.
"""

from typing import Final

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection

_IRREPLACEABLE: Final = (
    asyncpg.AmbiguousFunctionError,  # another function of the same name exists, with other arguments
    asyncpg.InvalidFunctionDefinitionError,  # another result, or other names of arguments
    asyncpg.InvalidTableDefinitionError,  # a column of a view has another type, another name or another place
)
"""The errors of what cannot be replaced in place."""

_ATTEMPTS: Final[tuple[list[str], ...]] = ([], ["checkpointd"], ["checkpointd", "fine_tuning"])
"""The schemas whose views and functions are set aside: in the first attempt none, and so on."""


async def replace_views(connection: Connection, sql: str, seconds: float) -> None:
    """Create or replace all views and functions, in the caller's transaction. `seconds` limits each attempt."""
    for schemas in _ATTEMPTS:
        try:
            async with connection.transaction():
                await _run_each(connection, queries.SET_ASIDE, schemas)
                await connection.execute(sql, timeout=seconds)
        except _IRREPLACEABLE:
            if schemas == _ATTEMPTS[-1]:
                raise
        else:
            break
    await _run_each(connection, queries.HAND_OVER)
    while await _drop_some(connection):
        pass
    if schemas:  # what the statements drop had another name, and has its own one again
        await connection.execute(sql, timeout=seconds)


async def _run_each(connection: Connection, query: str, *arguments: object) -> None:
    """Run the statements that a query returns."""
    for row in await connection.fetch(query, *arguments):
        await connection.execute(row["statement"])


async def _drop_some(connection: Connection) -> bool:
    """Drop what was set aside and is not used. Returns whether anything was dropped: then more may be unused now."""
    dropped = False
    for row in await connection.fetch(queries.LIST_OUTDATED):
        try:
            async with connection.transaction():
                await connection.execute(row["statement"])
        except asyncpg.DependentObjectsStillExistError:
            continue
        dropped = True
    return dropped
