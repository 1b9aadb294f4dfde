"""The schema and its upgrades: sql/migrations in order, once each, then views and functions, whenever one differs.

At last the roles, each time: they belong to the server, which may be another one than that of the last time.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.errors import MigrationError

VIEWS: Final = "views"
VIEWS_VERSION: Final = 3
"""Raised with each release that changes views: an older checkpointd puts none of its own in their place."""
ATTEMPTS: Final = 240
PAUSE: Final = 0.5
"""Seconds between attempts for a lock that somebody holds: three minutes in all."""
LOCK_TIMEOUT: Final = "250ms"
"""For each lock: whoever needs a table or view that we wait for, or have, waits no longer than ten of these."""
STATEMENT_SECONDS: Final = 3600.0
"""For each file: one that fills a new column of millions of rows takes its time."""

_LOST_RACES: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateSchemaError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
)


class Migrated(NamedTuple):
    """What a migration did: the files that it applied, and why it could not make the roles, if so."""

    files: list[str]
    roles_left: str | None


class _File(NamedTuple):
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


def roles_file() -> Traversable:
    """Return the file that makes the roles: an administrator can run it, too."""
    return queries.folder() / "roles.sql"


def _files() -> list[_File]:
    """Return every migration in order, and the views as one file after them."""
    views = _File(f"{VIEWS} {VIEWS_VERSION}", "".join(file.sql for file in _read("views")))
    return [*_read("migrations"), views]


def _read(kind: str) -> list[_File]:
    found = ((file.name, file) for file in (queries.folder() / kind).iterdir() if file.name.endswith(".sql"))
    return [_File(name, file.read_text(encoding="utf-8")) for name, file in sorted(found)]


def _pending(applied: Mapping[str, str]) -> list[_File]:
    """Return the files that the database lacks. Raises MigrationError where it is not one of ours, or newer."""
    files = _files()
    older = {VIEWS, *(f"{VIEWS} {version}" for version in range(VIEWS_VERSION))}
    if unknown := applied.keys() - {file.name for file in files} - older:
        raise MigrationError(
            f"the database is newer than this checkpointd (it has {max(unknown)}): upgrade checkpointd"
        )
    for file in files:
        if not file.name.startswith(VIEWS) and applied.get(file.name, file.checksum) != file.checksum:
            raise MigrationError(
                f"{file.name} is not the file that was applied to this database: reinstall checkpointd"
            )
    return [file for file in files if applied.get(file.name) != file.checksum]


async def _applied(connection: Connection) -> dict[str, str]:
    if not await connection.fetchval(queries.HAS_SCHEMA_MIGRATIONS):
        return {}
    return {row["name"]: row["checksum"] for row in await connection.fetch(queries.READ_SCHEMA_MIGRATIONS)}


async def require_current(connection: Connection) -> None:
    """Raise MigrationError unless the schema is the one of this version."""
    if _pending(await _applied(connection)):
        raise MigrationError("the schema is missing or old: run `checkpointd migrate`")


async def require_rights(connection: Connection) -> None:
    """Raise MigrationError unless this role may do all that polling needs."""
    if missing := await connection.fetch(queries.FIND_MISSING_RIGHTS):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lacks = f"{missing[0]['privilege']} on {missing[0]['name']}{more}"
        mend = "`checkpointd check` tells how to mend it"
        raise MigrationError(f"this role lacks {lacks}: {mend}")


async def migrate(connection: Connection) -> Migrated:
    """Create or upgrade the schema, and the roles where this role may. Several at once are safe: the others wait.

    A file is applied in one transaction, so that an interrupted run is finished by the next. Raises MigrationError.
    """
    files: list[str] = []
    for _ in range(ATTEMPTS):
        try:
            await _prepare(connection)
            while (name := await _apply_next(connection)) is not None:
                files.append(name)
            return Migrated(files, await _make_roles(connection))
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(PAUSE)
        except asyncpg.DuplicateSchemaError as e:
            raise MigrationError(
                f"{e}, and is not ours: rename it, or give checkpointd a database of its own"
            ) from None
        except asyncpg.InsufficientPrivilegeError as e:
            raise MigrationError(
                f"this role may not change the schema ({e}): migrate as a member of checkpointd_owner, or as the owner"
                " of the database"
            ) from None
    raise MigrationError("a lock on the schema was not to be had: end long transactions on it and migrate again")


async def keep_current(connection: Connection) -> None:
    """Migrate if anything is to be applied. Raises MigrationError."""
    if _pending(await _applied(connection)):
        await migrate(connection)


async def _prepare(connection: Connection) -> None:
    """Make the table of migrations. Of several migrators at once all but one may fail, and find it made."""
    while not await connection.fetchval(queries.HAS_SCHEMA_MIGRATIONS):
        with suppress(*_LOST_RACES):
            await connection.execute(queries.CREATE_SCHEMA)
            await connection.execute(queries.CREATE_SCHEMA_MIGRATIONS)


async def _apply_next(connection: Connection) -> str | None:
    """Apply the next file that is pending, under the lock; returns its name, or None where none is."""
    if not _pending(await _applied(connection)):
        return None
    async with connection.transaction():
        await _lock(connection)
        pending = _pending(await _applied(connection))
        if not pending:
            return None
        file = pending[0]
        await connection.execute(file.sql, timeout=STATEMENT_SECONDS)
        await connection.execute(queries.SAVE_SCHEMA_MIGRATION, file.name, file.checksum)
    return file.name


async def _make_roles(connection: Connection) -> str | None:
    """Make the roles and grant them what they may; returns why not, where this role may not."""
    try:
        async with connection.transaction():
            await _lock(connection)
            await connection.execute(queries.SHUT_FUNCTIONS)
        async with connection.transaction():
            await _lock(connection)
            await connection.execute(roles_file().read_text(encoding="utf-8"))
    except asyncpg.InsufficientPrivilegeError as e:
        return str(e.args[0])
    return None


async def _lock(connection: Connection) -> None:
    await connection.execute(queries.LIMIT_MIGRATION, LOCK_TIMEOUT, f"{STATEMENT_SECONDS:g}s")
    await connection.execute(queries.LOCK_SCHEMA_MIGRATIONS)
