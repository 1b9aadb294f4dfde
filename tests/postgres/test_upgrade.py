"""An upgrade under fire: interrupted anywhere, and while readers hold on to all that it wants to change."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from service.faults.daemons import measure_stalls
from support.logins import login
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, running, wait_for_line

SHAPE = """
    select c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
    where c.relnamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
    union all
    select c.oid::regclass::text, relacl::text, pg_get_userbyid(relowner), obj_description(oid) from pg_class c
    where c.relnamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
    union all
    select oid::regprocedure::text, prosrc, proacl::text, obj_description(oid) from pg_proc
    where pronamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
    union all
    select conname, pg_get_constraintdef(oid), null, null from pg_constraint
    where connamespace = 'checkpointd'::regnamespace order by 1, 2"""
CUT_OFF = (asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)
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
def plans() -> Iterator[None]:
    """Plan a further migration, of tables that every poll uses; views and functions are pending, too."""
    patched = pytest.MonkeyPatch()
    further = "alter table checkpointd.polling add test int; alter table checkpointd.checkpoints add test int"
    files = migrations._files()
    views = files[-1]._replace(sql=files[-1].sql + "comment on schema fine_tuning is 'test';")
    planned = [*files[:-1], migrations._File("9000_test.sql", further), views]
    patched.setattr(migrations, "_files", lambda: planned)
    yield
    patched.undo()


async def _connect(url: str) -> asyncpg.Connection:
    """Connect, again where a machine that stands still makes it take too long."""
    while True:
        with suppress(TimeoutError):
            return await connect(url)


async def _rerun_until_finished(url: str, arm: Callable[[asyncpg.Connection, int], Awaitable[object]]) -> int:
    """Migrate again and again, armed to be interrupted one place later each time; returns how often it was.

    After each step that was committed the places are counted from the start of the next.
    """
    admin = await asyncpg.connect(url)
    times, place, stage = 0, 0, ""
    while True:
        connection = await _connect(url)
        await arm(connection, place)
        try:
            await migrations.migrate(connection)
        except CUT_OFF:
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
    """A migration killed after its first statement, its second, and so on to the last is finished by the next."""
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
    """A migration that loses its connection after its first call, its second, and so on is finished by the next."""

    async def arm(connection: asyncpg.Connection, allowed: int) -> None:
        calls = count()
        connection.add_query_logger(lambda _: connection.terminate() if next(calls) == allowed else None)

    assert await _rerun_until_finished(empty_url, arm) > 30
    admin = await asyncpg.connect(empty_url)
    assert await sql.fetch(SHAPE) == await admin.fetch(SHAPE)
    await admin.close()


async def _hold(url: str) -> list[asyncpg.Connection]:
    """Do as readers what could hurt: locks of all kinds, snapshots, notifications, names like ours."""
    held = []
    for _ in range(4):
        reader = await asyncpg.connect(url)
        await reader.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        held.append(reader)
    locker, watcher, keeper, shouter = held
    views = ", ".join(
        row["name"] for row in await locker.fetch("select 'fine_tuning.' || viewname as name from pg_views"
                                                  " where schemaname = 'fine_tuning'")
    )  # fmt: skip
    await locker.execute(f"begin; lock table {views} in access share mode")
    await watcher.execute(
        "begin isolation level repeatable read; table fine_tuning.checkpoints; table fine_tuning.jobs"
    )
    await watcher.execute("declare c cursor for table fine_tuning.changes; fetch c")
    await keeper.execute("""
        create temporary table polling (job bigint); create temporary table schema_migrations (name text)""")
    for lock in ("pg_advisory_lock(n)", "pg_try_advisory_lock_shared(n, n)", "pg_advisory_xact_lock(n)"):
        # The table of locks has room for some thousand: without it, nobody gets one any more.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await keeper.execute(f"select count({lock}) from generate_series(1, 100000) n")
    for channel in ("checkpointd", "fine_tuning", "polling", "changes"):
        await shouter.execute(f"listen {channel}; notify {channel}, 'forged'")
    return held


@pytest.mark.slow
@pytest.mark.usefixtures("plans")
async def test_readers_delay_no_poll(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """While readers hold all that they can, and a migration waits for them, polls go on, and nobody waits for 3 s."""
    asked: list[float] = []
    items = [checkpoint(1)]

    async def answer(_: web.Request) -> web.Response:
        asked.append(time.monotonic())
        items.insert(0, checkpoint(len(items) + 1))  # so that each poll writes
        return page(items[:3])

    provider.checkpoints[JOB] = answer
    often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.1"}
    waits: list[float] = []
    async with login(url, "in role checkpointd") as daemon, login(url, "in role checkpointd_reader") as theirs:
        env = environment(tmp_path, daemon, provider.url, **often)
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as process:
            await wait_for_line(process, "poll.changed")
            readers = await _hold(theirs)
            dashboard = await asyncpg.connect(theirs)
            connection = await connect(url)
            migrating = asyncio.create_task(migrations.migrate(connection))
            begun = time.monotonic()
            async with measure_stalls() as stood_still:
                while time.monotonic() < begun + 10 or (len(items) < 30 and time.monotonic() < begun + 60):
                    before = time.monotonic()
                    await readers[3].execute("notify checkpointd, 'forged'")
                    await dashboard.fetch(
                        "select * from fine_tuning.checkpoints, fine_tuning.freshness, fine_tuning.jobs"
                    )
                    waits.append(time.monotonic() - before)
                    await asyncio.sleep(0.01)
                assert not migrating.done()
                stored = await sql.fetchval("select max(step_number) from fine_tuning.checkpoints")
                ended, late = time.monotonic(), stood_still()
            for reader in (*readers, dashboard):
                await reader.close()
            assert ["9000_test.sql", "views 2"] == (await asyncio.wait_for(migrating, 60)).files
            await connection.close()
            polls = [begun, *(t for t in asked if begun < t < ended), ended]
            assert max(b - a for a, b in pairwise(polls)) < 3 + late
            assert max(waits) < 3 + late
            assert len(polls) > 10
            assert stored > 10
            later = len(asked)
            async with asyncio.timeout(60):
                while len(asked) < later + 3:  # noqa: ASYNC110  # another process polls
                    await asyncio.sleep(0.02)
            process.terminate()
            assert 0 == await asyncio.wait_for(process.wait(), 60)
