"""Logins of the database, as an administrator creates them."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from checkpointd.postgres import migrations

_names = (f"login_{n}" for n in range(1_000_000))


def as_role(url: str, role: str) -> str:
    """Return the URL with another role. The tests' servers ask for no password."""
    return url.replace("//postgres@", f"//{role}@")


@asynccontextmanager
async def login(url: str, options: str) -> AsyncIterator[str]:
    """Create a login with these options, such as `in role checkpointd_reader`. Yields its URL; drops it at the end."""
    name = next(_names)
    admin = await asyncpg.connect(url)
    await admin.execute(f"create role {name} login {options}")
    try:
        yield as_role(url, name)
    finally:
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", name)
        await admin.execute(f"drop owned by {name}; drop role {name}")
        await admin.close()


@asynccontextmanager
async def connected(url: str, options: str) -> AsyncIterator[asyncpg.Connection]:
    """Create a login and yield a connection of it."""
    async with login(url, options) as login_url:
        connection = await asyncpg.connect(login_url)
        try:
            yield connection
        finally:
            await connection.close()


async def run_roles(binaries: Path, url: str) -> None:
    """Run the file of the roles with psql, as an administrator does."""
    command = [binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(migrations.roles_file()), url]
    psql = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert (b"", b"") == await psql.communicate()
    assert 0 == psql.returncode
