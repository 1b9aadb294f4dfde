"""The schema and its upgrades.

migrate() applies, in this order: each file of sql/migrations once; the views and functions of sql/views, as one file,
whenever they differ from those that were applied (views.py); and sql/roles.sql every time, because roles belong to the
server, and a database may have been restored on another one.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection
from checkpointd.postgres.errors import MigrationError
from checkpointd.postgres.views import replace_views

VIEWS: Final = "views"
VIEWS_VERSION: Final = 3
"""Increased by each release that changes views, so that an older checkpointd does not replace them with its own."""

_EARLIER: Final = frozenset(
    {
        "783dff1eb54938fc61a30406c9c730285b9fbb864fe3447f500ad14a989d26fc",  # 0002_summaries.sql
        "8fbb689299e3cb9099e927c19ca1eb3894e6a4fb383c0333aa12b306550c5780",  # 0002_summaries.sql
        "cb8a3e665f1319aac6ef6a8d90d92e5a7464d067e97646c3cee19669cb797ef1",  # 0008_reading.sql
        "1d02753f77ef63956da3daff04bd28b8483c1daa8d92ca51cae35159058a6b2e",  # 0009_content_and_growth.sql
    }
)
"""Checksums of migrations as development versions applied them. Later migrations make up for the differences."""

LOCK_TIMEOUT: Final = "250ms"
"""How long a file waits for each of its locks. Other sessions that use the same table or view wait meanwhile.

A file takes several locks, one after the other. Others wait at most ten times this long.
"""
LOCK_PAUSE_SECONDS: Final = 0.5
LOCK_ATTEMPTS: Final = 240
"""After a lock timeout, migrate() pauses and tries again, for three minutes in all."""

MIGRATION_SECONDS: Final = 3600.0
"""The limit for one file. A file that fills a new column of millions of rows takes minutes."""

_LOST_RACES: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateSchemaError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateObjectError,
)
"""Errors of `create … if not exists` if another session creates the same object at that moment."""


class Obstacle(NamedTuple):
    """What somebody added to a table of checkpointd. The fields are columns of find_obstacles.sql."""

    what: str
    effect: str
    remedy: str
    """The statement that removes it."""
    is_certain: bool
    """True if the daemon does not work correctly with it."""

    def __str__(self) -> str:
        """Return a text for people."""
        return f"{self.what}: {self.effect}: run `{self.remedy}`"


class Migrated(NamedTuple):
    """What migrate() did."""

    files: list[str]
    """The files that were applied."""
    roles_left: str | None
    """Why the roles were not created and granted, or None if they were."""
    obstacles: list[Obstacle]


class _File(NamedTuple):
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    @property
    def is_views(self) -> bool:
        """True if this is the file with all views and functions."""
        return self.name.startswith(VIEWS)


def roles_file() -> Traversable:
    """Return the file that creates the roles and grants their rights. An administrator can run it with psql."""
    return queries.folder() / "roles.sql"


def _files() -> list[_File]:
    """Return the migrations in order, and then the views as one file."""
    views = _File(f"{VIEWS} {VIEWS_VERSION}", "".join(file.sql for file in _read("views")))
    return [*_read("migrations"), views]


def _read(folder: str) -> list[_File]:
    files = [file for file in (queries.folder() / folder).iterdir() if file.name.endswith(".sql")]
    return [_File(file.name, file.read_text(encoding="utf-8")) for file in sorted(files, key=lambda file: file.name)]


def _pending(applied: Mapping[str, str]) -> list[_File]:
    """Return the files that have to be applied, given the names and checksums of those that were.

    Raises MigrationError if the database is newer, or a migration differs from the one that was applied.
    """
    files = _files()
    older_views = {VIEWS, *(f"{VIEWS} {version}" for version in range(VIEWS_VERSION))}
    if unknown := applied.keys() - {file.name for file in files} - older_views:
        raise MigrationError(
            f"the database is newer than this checkpointd (it has {max(unknown)}): upgrade checkpointd"
        )
    pending = [file for file in files if applied.get(file.name) not in {file.checksum, *_EARLIER}]
    for file in pending:
        if not file.is_views and file.name in applied:
            raise MigrationError(
                f"{file.name} differs from the file that was applied to this database: reinstall checkpointd"
            )
    return pending


async def _applied(connection: Connection) -> dict[str, str]:
    """Return the checksums of the files that were applied, by name."""
    async with _transaction(connection):
        if not await connection.fetchval(queries.HAS_SCHEMA_MIGRATIONS):
            return {}
        return {row["name"]: row["checksum"] for row in await connection.fetch(queries.READ_SCHEMA_MIGRATIONS)}


async def require_current(connection: Connection) -> None:
    """Raise MigrationError unless the schema is the one of this version, and nothing hides or replaces its rows."""
    for obstacle in await find_obstacles(connection):
        if obstacle.is_certain:
            raise MigrationError(str(obstacle))
    if _pending(await _applied(connection)):
        raise MigrationError("the schema is missing or old: run `checkpointd migrate`")


async def find_obstacles(connection: Connection) -> list[Obstacle]:
    """Return what hides, changes or loses rows of the tables, the certain ones first."""
    async with _transaction(connection):
        return [Obstacle(*row) for row in await connection.fetch(queries.FIND_OBSTACLES)]


async def require_rights(connection: Connection) -> None:
    """Raise MigrationError unless this role may do all that polling needs."""
    if missing := await connection.fetch(queries.FIND_MISSING_RIGHTS):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lacks = f"{missing[0]['privilege']} on {missing[0]['name']}{more}"
        raise MigrationError(f"this role lacks {lacks}: `checkpointd check` shows how to grant it")


async def migrate(connection: Connection) -> Migrated:
    """Create or upgrade the schema, and also the roles if this role may do that.

    Several processes may migrate at the same time: all but one wait. Each file is applied in one transaction, so that
    the next run completes one that was interrupted.

    Raises MigrationError.
    """
    files: list[str] = []
    for _ in range(LOCK_ATTEMPTS):
        try:
            await _prepare(connection)
            while (name := await _apply_next(connection)) is not None:
                files.append(name)
            return Migrated(files, await _create_roles(connection), await find_obstacles(connection))
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
        except asyncpg.DuplicateSchemaError as e:
            raise MigrationError(
                f"{e}, and checkpointd did not create it: rename it, or use another database"
            ) from None
        except asyncpg.DependentObjectsStillExistError as e:
            raise MigrationError(
                f"{e.args[0]} ({e.detail}): drop what depends on it, migrate, and create it again"
            ) from None
        except asyncpg.InsufficientPrivilegeError as e:
            certain = [str(obstacle) for obstacle in await find_obstacles(connection) if obstacle.is_certain]
            raise MigrationError(
                certain[0]
                if certain
                else f"this role may not change the schema ({e}): migrate as a member of checkpointd_owner, or as the"
                " owner of the database"
            ) from None
    raise MigrationError("the schema stayed locked: end the long transactions that use it, and migrate again")


async def keep_current(connection: Connection) -> None:
    """Migrate if a file has to be applied. Raises MigrationError."""
    if _pending(await _applied(connection)):
        await migrate(connection)


async def _prepare(connection: Connection) -> None:
    """Create the table schema_migrations if it does not exist. Another session may create it at the same time."""
    is_prepared = False
    while not is_prepared:
        with suppress(*_LOST_RACES):
            async with _transaction(connection):
                if not await connection.fetchval(queries.HAS_SCHEMA_MIGRATIONS):
                    await connection.execute(queries.CREATE_SCHEMA)
                    await connection.execute(queries.CREATE_SCHEMA_MIGRATIONS)
            is_prepared = True


async def _apply_next(connection: Connection) -> str | None:
    """Apply the next file, in a transaction that excludes other migrations. Returns its name, or None if none is left.

    The first check takes no lock, so that migrating an up-to-date schema waits for no lock.
    """
    if not _pending(await _applied(connection)):
        return None
    async with _transaction(connection):
        await _lock(connection)
        pending = _pending(await _applied(connection))
        if not pending:
            return None
        file = pending[0]
        if file.is_views:
            await replace_views(connection, file.sql, MIGRATION_SECONDS)
        else:
            await connection.execute(file.sql, timeout=MIGRATION_SECONDS)
        await connection.execute(queries.SAVE_SCHEMA_MIGRATION, file.name, file.checksum)
    return file.name


async def _create_roles(connection: Connection) -> str | None:
    """Create the roles and grant their rights. Returns why this role may not do that, or None if it was done."""
    try:
        async with _transaction(connection):
            await _lock(connection)
            await connection.execute(queries.SHUT_FUNCTIONS)
        async with _transaction(connection):
            await _lock(connection)
            await connection.execute(roles_file().read_text(encoding="utf-8"))
    except asyncpg.InsufficientPrivilegeError as e:
        return str(e.args[0])
    return None


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """Begin a transaction that calls PostgreSQL's own functions only."""
    async with connection.transaction():
        await connection.execute(queries.FIX_SEARCH_PATH)
        yield


async def _lock(connection: Connection) -> None:
    """Exclude other migrations until the end of the transaction, and set its time limits."""
    await connection.execute(queries.LIMIT_MIGRATION, LOCK_TIMEOUT, f"{MIGRATION_SECONDS:g}s")
    await connection.execute(queries.LOCK_SCHEMA_MIGRATIONS)
