"""Open the database for a command, which is the one of the settings or the embedded one; and the command migrate."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import CommandError
from checkpointd.postgres import dsn, migrations
from checkpointd.postgres.connection import Connect, connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.errors import DRIVER_ERRORS, DatabaseUnavailableError, EmbeddedError
from checkpointd.postgres.store import Store, open_store
from checkpointd.settings.credentials import SettingsError, state_folder
from checkpointd.settings.environment import PREFIX
from checkpointd.settings.load import load
from checkpointd.settings.model import Settings
from checkpointd.telemetry.hidden import hide


@asynccontextmanager
async def database(settings: Settings, *, announce_psql: bool = False) -> AsyncIterator[Connect]:
    """Yield a function that connects to the database; the embedded one is started, and stopped at the end.

    With `announce_psql` the command that opens psql on the embedded database is printed. Raises SettingsError or
    EmbeddedError.
    """
    if settings.database_url is not None:
        yield _connecting(settings, settings.database_url)
        return
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        raise SettingsError(
            f"{PREFIX}DATABASE_URL: required for a service: put the URL into a file database_url"
            " in the folder of the unit's LoadCredential="
        )
    async with EmbeddedPostgres(state_folder() / "postgres") as embedded:
        psql = f": {embedded.psql}" if announce_psql else ""
        output.say(f"using the embedded PostgreSQL in {state_folder()}{psql}")

        async def connect_embedded() -> Any:  # noqa: ANN401  # a connection of the driver
            try:
                return await connect(await embedded.start_or_connect())
            except EmbeddedError as e:
                raise ConnectionError(str(e)) from None

        yield connect_embedded


def _connecting(settings: Settings, url: str) -> Connect:
    """Return a function that connects. After a failure it reads the URL again, and uses a new user or password."""

    async def connect_() -> Any:  # noqa: ANN401  # a connection of the driver
        nonlocal url
        used = url
        try:
            return await connect(used, pooler=settings.database_pooler)
        except DRIVER_ERRORS:
            found = await asyncio.to_thread(_reread, settings, used)
            if url == used:  # no other task has replaced it meanwhile
                url = found
            if url == used:
                raise
        return await connect(url, pooler=settings.database_pooler)

    return connect_


def _reread(settings: Settings, url: str) -> str:
    """Return the URL as it is set now, if only its user or password differ. Otherwise return `url`.

    Another database would have other keys of sources, so it is used only after a restart.
    """
    try:
        found = load(settings.config).database_url or url
        before, now = dsn.parse(url), dsn.parse(found)
    except (SettingsError, dsn.DsnError):  # perhaps the file is just being replaced
        return url
    hide(now.secrets)
    changed = {name for name, _ in before.options.items() ^ now.options.items()}
    return found if changed <= {"user", "password", "sslpassword"} else url


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Store]:
    """Open the database. The embedded one is migrated; the schema of another one must be up to date.

    Raises CommandError if the database is unavailable, now or later in the block.
    """
    async with database(settings) as connect_, open_store(connect_) as store:
        with _as_command_error():
            async with store.connection() as connection:
                if settings.database_url is None:
                    await migrations.keep_current(connection)
                await migrations.require_current(connection)
            yield store


@contextmanager
def _as_command_error() -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailableError as e:
        raise CommandError(f"database: {e}") from None


def migrate_schema(settings: Settings) -> None:
    """Create or upgrade the schema and the roles, and print what was applied."""

    async def work() -> None:
        async with database(settings) as connect_, open_store(connect_) as store:
            with _as_command_error():
                async with store.connection() as connection:
                    done = await migrations.migrate(connection)
        print(f"applied {', '.join(done.files)}" if done.files else "the schema is up to date")
        if done.roles_left is not None:
            output.say(
                f"the roles were not changed, because this role lacks the right ({done.roles_left}):"
                f" run {migrations.roles_file()} with psql as an administrator"
            )
        for obstacle in done.obstacles:
            output.say(str(obstacle))

    event_loop.run_interruptible(work())
