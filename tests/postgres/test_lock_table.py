"""A full lock table of the server: the error, the log and /readyz name the sessions that fill it."""

import asyncio
import json
from contextlib import suppress
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from support.logins import login
from support.provider import JOB, Provider, checkpoint, page
from support.servers import free_port, serving
from support.verbs import checkpointd, environment, get, running, wait_for_line
from support.waiting import eventually

DEEPER = "savepoint deeper; alter role current_user set work_mem = '1MB'"
"""Takes a lock that no revocation prevents, and keeps it until the transaction ends."""

TEMPORARY = "savepoint deeper; create temporary table t{} ()"
"""Takes several locks, which also keep others from taking locks that need no place in the table."""


async def _fill(session: asyncpg.Connection, *statements: str) -> None:
    """Take locks, with one statement after the other, until there is no place left."""
    await session.execute("begin")
    for statement in statements:
        with suppress(asyncpg.OutOfMemoryError):
            for number in count():
                await session.execute(statement.format(number))
        await session.execute("rollback to savepoint deeper")


@pytest.mark.slow
@pytest.mark.parametrize("statements", [[DEEPER], [TEMPORARY, DEEPER]], ids=["subtransactions", "temporary tables"])
async def test_a_full_lock_table_is_explained(tmp_path: Path, provider: Provider, statements: list[str]) -> None:
    """While a reader's session fills the lock table, /readyz and the log name it. Work goes on when it has ended."""
    with serving(tmp_path / "server", max_locks_per_transaction="10", max_connections="20") as server:
        admin = await connect(server.url)
        await admin.execute("create database other")
        await migrations.migrate(admin)
        port = free_port()
        async with (
            login(server.url, "in role checkpointd") as daemon,
            login(server.url, "in role checkpointd_reader") as reader,
        ):
            often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.2"}
            env = environment(tmp_path, daemon, provider.url, CHECKPOINTD_HTTP_PORT=str(port), **often)
            provider.checkpoints[JOB] = page([checkpoint(1)])
            await checkpointd("track", JOB, env=env)
            async with running("run", env=env) as process:
                await wait_for_line(process, "daemon.ready")
                session = await asyncpg.connect(f"{reader.rpartition('/')[0]}/other")
                pid = session.get_server_pid()
                await _fill(session, *statements)

                async def is_explained() -> None:
                    code, text = await get(port, "/readyz")
                    assert code == 503
                    assert f"the lock table is full; sessions holding most locks: process {pid} of role " in text, text
                    assert f"pg_terminate_backend({pid})" in text

                await eventually(is_explained)
                line = json.loads(await wait_for_line(process, "the lock table is full; sessions"))
                assert f"process {pid} " in line["error"]
                session.terminate()

                async def is_ready() -> None:
                    assert (200, "ok\n") == await get(port, "/readyz")

                await eventually(is_ready)
                process.terminate()
                assert 0 == await asyncio.wait_for(process.wait(), 60)
        await admin.close()
