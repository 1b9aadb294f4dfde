"""Upgrades that are interrupted anywhere, and upgrades while readers hold locks on everything that is changed."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres import migrations, queries
from checkpointd.postgres.connection import connect
from service.faults.daemons import measure_stalls
from support.catalogue import SHAPE
from support.logins import login
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, running, wait_for_line
from support.waiting import eventually

CONNECTION_LOST = (asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
INTERRUPT = """
    create schema test;
    create sequence test.commands;
    create table test.allowed (n bigint);
    insert into test.allowed values (0);
    create function test.interrupt() returns event_trigger language plpgsql as $$
    begin
      if nextval('test.commands') > (select n from test.allowed) then
        perform pg_terminate_backend(pg_backend_pid());
      end if;
    end $$;
    create event trigger interrupt on ddl_command_end execute function test.interrupt()"""


@pytest.fixture
def _next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a migration of tables that every poll uses, and change the views, as a next version would."""
    sql = tmp_path / "sql"
    shutil.copytree(str(queries.folder()), sql)
    further = "alter table checkpointd.polling add test int; alter table checkpointd.checkpoints add test int"
    (sql / "migrations" / "9000_test.sql").write_text(further)
    (sql / "views" / "test.sql").write_text("comment on schema fine_tuning is 'test';")
    monkeypatch.setattr(queries, "folder", lambda: sql)


async def _connect(url: str) -> asyncpg.Connection:
    """Connect, and try again if a busy machine makes it take too long."""
    while True:
        with suppress(TimeoutError):
            return await connect(url)


async def _rerun_until_finished(url: str, arm: Callable[[asyncpg.Connection, int], Awaitable[object]]) -> int:
    """Migrate until it succeeds. Before each run, `arm` prepares an interruption, each time one place later.

    After each step that was committed, the places are counted from the start of the next step. Returns the number of
    interruptions.
    """
    admin = await asyncpg.connect(url)
    times, place, stage = 0, 0, ""
    while True:
        connection = await _connect(url)
        await arm(connection, place)
        try:
            await migrations.migrate(connection)
        except CONNECTION_LOST:
            times += 1
        else:
            connection.terminate()
            await admin.close()
            return times
        now = str(await admin.fetchval("select to_regnamespace('checkpointd')"))
        if await admin.fetchval("select to_regclass('checkpointd.schema_migrations') is not null"):
            now += str(await admin.fetchval("select count(*) from checkpointd.schema_migrations"))
        place, stage = (place + 1 if now == stage else 0), now


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_killed_after_each_statement(empty_url: str, sql: asyncpg.Connection) -> None:
    """A migration that is killed after its first statement, its second, and so on, is completed by the next one."""
    admin = await asyncpg.connect(empty_url)
    await admin.execute(INTERRUPT)

    async def arm(_: asyncpg.Connection, allowed: int) -> None:
        await admin.execute("select setval('test.commands', 1, false)")
        await admin.execute("update test.allowed set n = $1", allowed)

    assert await _rerun_until_finished(empty_url, arm) > 300
    assert await sql.fetch(SHAPE) == await admin.fetch(SHAPE)
    await admin.close()


@pytest.mark.slow
async def test_cut_off_after_each_call(empty_url: str, sql: asyncpg.Connection) -> None:
    """A migration that loses its connection after its first call, its second, and so on, is completed by the next."""

    async def arm(connection: asyncpg.Connection, allowed: int) -> None:
        calls = count()
        connection.add_query_logger(lambda _: connection.terminate() if next(calls) == allowed else None)

    assert await _rerun_until_finished(empty_url, arm) > 30
    admin = await asyncpg.connect(empty_url)
    assert await sql.fetch(SHAPE) == await admin.fetch(SHAPE)
    await admin.close()


async def _hold(url: str) -> list[asyncpg.Connection]:
    """Do what readers can do to the daemon: locks of all kinds, snapshots, notifications, temporary tables."""
    readers = []
    for _ in range(4):
        reader = await asyncpg.connect(url)
        await reader.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        readers.append(reader)
    locker, watcher, keeper, notifier = readers
    views = await locker.fetch("select viewname from pg_views where schemaname = 'fine_tuning'")
    names = ", ".join(f"fine_tuning.{view['viewname']}" for view in views)
    await locker.execute(f"begin; lock table {names} in access share mode")
    await watcher.execute(
        "begin isolation level repeatable read; table fine_tuning.checkpoints; table fine_tuning.jobs"
    )
    await watcher.execute("declare c cursor for table fine_tuning.changes; fetch c")
    await keeper.execute("""
        create temporary table polling (job bigint); create temporary table schema_migrations (name text)""")
    for lock in ("pg_advisory_lock(n)", "pg_try_advisory_lock_shared(n, n)", "pg_advisory_xact_lock(n)"):
        # The lock table has room for some thousand locks. When it is full, nobody can lock anything.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await keeper.execute(f"select count({lock}) from generate_series(1, 100000) n")
    for channel in ("checkpointd", "fine_tuning", "polling", "changes"):
        await notifier.execute(f"listen {channel}; notify {channel}, 'forged'")
    return readers


@pytest.mark.slow
@pytest.mark.usefixtures("_next_version")
async def test_readers_delay_no_poll(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """While readers hold every lock that they can get, and a migration waits for them, nothing waits for 3 s."""
    requests: list[float] = []
    items = [checkpoint(1)]

    async def answer(_: web.Request) -> web.Response:
        requests.append(time.monotonic())
        items.insert(0, checkpoint(len(items) + 1))  # so that each poll writes a row
        return page(items[:3])

    provider.checkpoints[JOB] = answer
    often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.1"}
    waits: list[float] = []
    async with (
        login(url, "in role checkpointd") as daemon_url,
        login(url, "in role checkpointd_reader") as reader_url,
    ):
        env = environment(tmp_path, daemon_url, provider.url, **often)
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as process:
            await wait_for_line(process, "poll.changed")
            readers = await _hold(reader_url)
            dashboard = await asyncpg.connect(reader_url)
            connection = await connect(url)
            migrating = asyncio.create_task(migrations.migrate(connection))
            begun = time.monotonic()
            async with measure_stalls() as stood_still:
                while time.monotonic() < begun + 10 or (len(items) < 30 and time.monotonic() < begun + 60):
                    before = time.monotonic()
                    await readers[3].execute("notify checkpointd, 'forged'")
                    # With all columns, it would cost so much that PostgreSQL compiles it, which takes seconds.
                    await dashboard.fetch(
                        "select 1 from fine_tuning.checkpoints, fine_tuning.freshness, fine_tuning.jobs"
                    )
                    waits.append(time.monotonic() - before)
                    await asyncio.sleep(0.01)  # the measured statements take most of the time
                assert not migrating.done()
                stored = await sql.fetchval("select max(step_number) from fine_tuning.checkpoints")
                ended, late = time.monotonic(), stood_still()
            for reader in (*readers, dashboard):
                await reader.close()
            assert ["9000_test.sql", f"views {migrations.VIEWS_VERSION}"] == (
                await asyncio.wait_for(migrating, 60)
            ).files
            await connection.close()
            polls = [begun, *(t for t in requests if begun < t < ended), ended]
            assert max(b - a for a, b in pairwise(polls)) < 3 + late
            assert max(waits) < 3 + late
            assert len(polls) > 10
            assert stored > 10
            after_migration = len(requests)

            async def polls_go_on() -> None:
                assert len(requests) >= after_migration + 3

            await eventually(polls_go_on)
            process.terminate()
            assert 0 == await asyncio.wait_for(process.wait(), 60)
