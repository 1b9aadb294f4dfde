"""The way to the database as a command goes it: that of the settings, or the embedded one, with its schema or not."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from checkpointd.cli import output as terminal
from checkpointd.postgres import migrations
from checkpointd.postgres.connection import UNAVAILABLE, Connect, connect
from checkpointd.postgres.embedded import EmbeddedError, EmbeddedPostgres
from checkpointd.postgres.errors import explain
from checkpointd.postgres.store import Store, open_store
from checkpointd.settings import credentials
from checkpointd.settings import model as settings
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings


class CommandError(Exception):
    """The work failed; the text says what and what to do."""


@asynccontextmanager
async def database(chosen: Settings, *, lasting: bool = False) -> AsyncIterator[Connect]:
    """Open the way to the database: that of the settings, or the embedded one; one that lasts says how to look."""
    if chosen.database_url is not None:
        url, pooler = chosen.database_url, chosen.database_pooler
        yield lambda: connect(url, pooler=pooler)
        return
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        raise SettingsError(
            f"{settings.PREFIX}DATABASE_URL: a service needs one, such as a file database_url"
            " in the folder of the unit's LoadCredential="
        )
    async with EmbeddedPostgres(credentials.state_folder() / "postgres") as embedded:
        look = f": {embedded.psql}" if lasting else ""
        terminal.say(f"using the embedded PostgreSQL of {credentials.state_folder()}{look}")

        async def joined() -> Any:  # noqa: ANN401  # a connection
            try:
                return await connect(await embedded.start_or_connect())
            except EmbeddedError as e:
                raise ConnectionError(str(e)) from None

        yield joined


@asynccontextmanager
async def ready(chosen: Settings) -> AsyncIterator[Store]:
    """Open the database for a verb; its schema must be there (the embedded one's is made)."""
    async with database(chosen) as connect_, open_store(connect_) as store:
        with database_errors():
            async with store.connection() as connection:
                if chosen.database_url is None:
                    await migrations.keep_current(connection)
                await migrations.require_current(connection)
            yield store


@contextmanager
def database_errors() -> Iterator[None]:
    """Make what the database cannot do a failure of the command."""
    try:
        yield
    except UNAVAILABLE as e:
        raise CommandError(f"database: {explain(e)}") from None
