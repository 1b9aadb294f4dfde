"""Upgrades from every schema that a version ever made, and changes that PostgreSQL cannot make in place."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres import queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.errors import MigrationError
from checkpointd.postgres.migrations import Migrated, migrate
from support.catalogue import SHAPE
from support.old_schemas import OldSchema, present, read

FILL = """
    insert into checkpointd.sources (key, name, kind) overriding system value values (1, 'openai', 'openai');
    insert into checkpointd.jobs (key, source, id, tracked_by, status, hyperparameters) overriding system value
    values (1, 1, 'ftjob-1', 'operator', 'running', '{"n_epochs": 3}'), (2, 1, 'ftjob-2', 'discovery', null, null);
    insert into checkpointd.polling (job, source, sealed_at, next_poll_at)
    values (1, 1, null, now()), (2, 1, now(), 'infinity');
    insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, train_loss,
      valid_loss, extra_metrics, payload)
    select 1, 'ftckpt_' || n, 100 * n, 1735689600 + n, 'ft:' || n, 1.5 / n, 2.5 / n, '{"reward": 0.25}', '{}'
    from generate_series(1, 3) n;
    insert into checkpointd.polls (job, outcome, items, new, changed) values (1, 'changed', 3, 3, 0);
    insert into checkpointd.changes (job, poll, kind, checkpoint_id) select 1, 1, 'new', 'ftckpt_' || n
    from generate_series(1, 3) n;
    insert into checkpointd.changes (job, poll, kind, checkpoint_id, field, old_value, new_value)
    values (1, 1, 'changed', 'ftckpt_1', 'train_loss', '1.75', '1.5');
    insert into checkpointd.rejects (job, digest, reason, raw) values (1, '\\x00', 'id: no text', '{}')"""
ROWS = """
    select row from (
      select 1 as of, key::text as id, to_jsonb(t) as row from checkpointd.sources t
      union all select 2, key::text, to_jsonb(t) from checkpointd.jobs t
      union all select 3, job::text, to_jsonb(t) from checkpointd.polling t
      union all select 4, id, to_jsonb(t) from checkpointd.checkpoints t
      union all select 5, id::text, to_jsonb(t) from checkpointd.polls t
      union all select 6, seq::text, to_jsonb(t) from checkpointd.changes t
      union all select 7, reason, to_jsonb(t) from checkpointd.rejects t) rows
    order by of, id"""
VIEWS = "select viewname from pg_views where schemaname = 'fine_tuning' order by viewname"
OUTDATED = """
    select relname from pg_class where relname like 'outdated %'
    union all select proname from pg_proc where proname like 'outdated %' order by 1"""
Release = Callable[..., None]


async def _upgrade(url: str) -> Migrated:
    connection = await connect(url)
    try:
        return await migrate(connection)
    finally:
        await connection.close()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Return a function that makes the next version: the sql of this one, with texts of its views replaced."""
    numbers = iter(range(100))

    def make(*edits: tuple[str, str], more: str = "") -> None:
        sql = tmp_path / f"sql-{next(numbers)}"
        shutil.copytree(str(Path(str(original))), sql)
        for old, new in edits:
            (file,) = [path for path in (sql / "views").iterdir() if old in path.read_text()]
            file.write_text(file.read_text().replace(old, new))
        (sql / "views" / "zz_more.sql").write_text(f"{more}\n-- {sql.name}\n")
        monkeypatch.setattr(queries, "folder", lambda: sql)

    original = queries.folder()
    return make


ONE_MORE_ARGUMENT = (
    ("n_epochs text, status text\n) returns int", "n_epochs text, status text, more boolean\n) returns int"),
    ("jobs.status\n  ) as epoch", "jobs.status, true\n  ) as epoch"),
    ("current_job.n_epochs, null\n", "current_job.n_epochs, null, true\n"),
)
ANOTHER_RESULT = (
    ("n_epochs text, status text\n) returns int", "n_epochs text, status text\n) returns bigint"),
    ("jobs.status\n  ) as epoch", "jobs.status\n  )::int as epoch"),
)
ONE_MORE_PARAMETER = (("  status_waits boolean[],\n", "  status_waits boolean[],\n  status_more boolean[],\n"),)
ANOTHER_COLUMN = (("jobs.status\n  ) as epoch", "jobs.status\n  )::bigint as epoch"),)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("schema", read(), ids=lambda schema: schema.name)
async def test_each_old_schema_is_upgraded(schema: OldSchema, empty_url: str, sql: asyncpg.Connection) -> None:
    """A database of each earlier catalogue becomes one of today, has its rows, and is migrated only once."""
    old = await asyncpg.connect(empty_url)
    await schema.create(old)
    await old.execute(FILL)
    before = [json.loads(row) for (row,) in await old.fetch(ROWS)]
    await _upgrade(empty_url)
    after = [json.loads(row) for (row,) in await old.fetch(ROWS)]
    assert before == [
        {column: now[column] for column in row if column in now} for row, now in zip(before, after, strict=True)
    ]
    assert await sql.fetch(SHAPE) == await old.fetch(SHAPE)
    for (view,) in await old.fetch(VIEWS):
        await old.fetch(f"select * from fine_tuning.{view}")
    rows = "select id, step_number, epoch, train_loss, valid_loss from fine_tuning.checkpoints order by id"
    assert [(f"ftckpt_{n}", 100 * n, n, 1.5 / n, 2.5 / n) for n in (1, 2, 3)] == [
        tuple(r) for r in await old.fetch(rows)
    ]
    jobs = "select id, phase, checkpoint_count from fine_tuning.jobs order by id"
    assert [("ftjob-1", "active", 3), ("ftjob-2", "sealed", 0)] == [tuple(row) for row in await old.fetch(jobs)]
    assert [] == (await _upgrade(empty_url)).files
    await old.close()


async def test_this_schema_is_recorded_in_full(empty_url: str, sql: asyncpg.Connection) -> None:
    """What a release records of itself makes the same catalogue as its migration."""
    other = await asyncpg.connect(empty_url)
    await present("next").create(other)
    assert await sql.fetch(SHAPE) == await other.fetch(SHAPE)
    await other.close()


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    "edits",
    [ONE_MORE_ARGUMENT, ANOTHER_RESULT, ONE_MORE_PARAMETER],
    ids=["one more argument", "another result", "one more parameter of a procedure"],
)
async def test_a_function_changes_its_form(
    edits: tuple[tuple[str, str], ...], url: str, sql: asyncpg.Connection, release: Release
) -> None:
    """Views keep their grants and what others built on them, and no old function is left."""
    await sql.execute("""
        create role guest;
        grant select on fine_tuning.checkpoints to guest;
        create view public.mine as select id, epoch from fine_tuning.checkpoints;
        create materialized view public.mine_too as select id, epoch from fine_tuning.checkpoints""")
    oid = await sql.fetchval("select 'fine_tuning.checkpoints'::regclass::oid")
    release(*edits)
    assert [] == (await _upgrade(url)).obstacles
    routines = "select count(*) from pg_proc where proname in ('epoch', 'save_job_records')"
    assert 2 == await sql.fetchval(routines)
    assert [] == await sql.fetch(OUTDATED)
    assert oid == await sql.fetchval("select 'fine_tuning.checkpoints'::regclass::oid")
    assert await sql.fetchval("select has_table_privilege('guest', 'fine_tuning.checkpoints', 'select')")
    await sql.fetch("select * from public.mine")
    await sql.execute("refresh materialized view public.mine_too; drop owned by guest; drop role guest")


@pytest.mark.slow
async def test_grants_on_a_new_function(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """A function that is made anew has the owner and the grants of the one before, even if nobody may grant roles."""
    state = """
        select proowner::regrole::text, (select array_agg(g::text order by g::text) from unnest(proacl) g) from pg_proc
        where proname = 'epoch'"""
    await sql.execute("""
        create role guest;
        revoke execute on function checkpointd.epoch from public;
        grant execute on function checkpointd.epoch to guest with grant option""")
    before = await sql.fetchrow(state)
    release(*ONE_MORE_ARGUMENT)
    await _upgrade(url)
    assert before == await sql.fetchrow(state)
    await sql.execute("drop owned by guest; drop role guest")


@pytest.mark.slow
async def test_a_column_changes_its_type(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """A view that cannot be replaced in place is made anew with its grants. Somebody's view shows the old one."""
    acl = """
        select (select array_agg(g::text order by g::text) from unnest(relacl) g), attacl::text
        from pg_class join pg_attribute on attrelid = pg_class.oid and attname = 'id'
        where pg_class.oid = 'fine_tuning.checkpoints'::regclass"""
    await sql.execute("""
        create role guest;
        grant select on fine_tuning.checkpoints to public;
        grant select (id) on fine_tuning.checkpoints to guest;
        create view public.mine as select id, epoch from fine_tuning.checkpoints""")
    before = await sql.fetchrow(acl)
    release(*ANOTHER_COLUMN)
    obstacles = (await _upgrade(url)).obstacles
    assert "bigint" == await sql.fetchval("""
        select format_type(atttypid, null) from pg_attribute
        where attrelid = 'fine_tuning.checkpoints'::regclass and attname = 'epoch'""")
    assert before == await sql.fetchrow(acl)
    await sql.fetch("select * from public.mine")
    assert ["view public.mine"] == [obstacle.what for obstacle in obstacles]
    assert 1 < len(await sql.fetch(OUTDATED))
    await sql.execute(obstacles[0].remedy)
    release()
    assert [] == (await _upgrade(url)).obstacles
    assert [] == await sql.fetch(OUTDATED)
    await sql.execute("drop owned by guest; drop role guest")


@pytest.mark.slow
async def test_a_function_that_somebody_uses_stays(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """A view of somebody on a private function goes on working, is reported, and a later release drops the function."""
    await sql.execute("create view public.mine as select checkpointd.epoch(10, 5, 15, '3', 'running') as epoch")
    release(*ONE_MORE_ARGUMENT)
    (obstacle,) = (await _upgrade(url)).obstacles
    assert ("view public.mine", "drop view public.mine", False) == (
        obstacle.what,
        obstacle.remedy,
        obstacle.is_certain,
    )
    assert 2 == await sql.fetchval("select epoch from public.mine")
    release(*ANOTHER_RESULT)
    assert [obstacle] == (await _upgrade(url)).obstacles
    assert 2 == await sql.fetchval("select epoch from public.mine")
    await sql.execute(obstacle.remedy)
    release()
    assert [] == (await _upgrade(url)).obstacles
    assert [] == await sql.fetch(OUTDATED)


@pytest.mark.slow
async def test_an_index_keeps_its_function(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """A function that an index uses is replaced in place, even if others have to be made anew."""
    await sql.execute("create index mine on checkpointd.jobs ((checkpointd.as_jsonb(payload)))")
    oid = await sql.fetchval("select 'checkpointd.as_jsonb'::regproc::oid")
    release(*ONE_MORE_ARGUMENT)
    await _upgrade(url)
    assert oid == await sql.fetchval("select 'checkpointd.as_jsonb'::regproc::oid")
    assert await sql.fetchval("select indisvalid from pg_index where indexrelid = 'checkpointd.mine'::regclass")


@pytest.mark.slow
async def test_what_others_created_stays(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """A view or function of somebody in the schemas of checkpointd survives every kind of upgrade."""
    await sql.execute("""
        create view fine_tuning.mine as select 1 as one;
        create function checkpointd.mine() returns int language sql return 1""")
    for edits in (ONE_MORE_ARGUMENT, ANOTHER_COLUMN, ()):
        release(*edits)
        await _upgrade(url)
        assert 1 == await sql.fetchval("select one from fine_tuning.mine")
        assert 1 == await sql.fetchval("select checkpointd.mine()")
    assert [] == await sql.fetch(OUTDATED)


async def test_a_removed_view(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """If somebody's view uses a view that a release removes, the error names it. Without it, the upgrade succeeds."""
    await sql.execute("create view public.mine as select source from fine_tuning.rejects")
    release(more="drop view if exists fine_tuning.rejects;")
    with pytest.raises(MigrationError, match=r"public\.mine depends on view fine_tuning\.rejects\): drop what depends"):
        await _upgrade(url)
    assert [] == await sql.fetch("select * from fine_tuning.rejects")
    await sql.execute("drop view public.mine")
    assert 1 == len((await _upgrade(url)).files)
    assert "rejects" not in {view for (view,) in await sql.fetch(VIEWS)}


@pytest.mark.slow
async def test_readers_never_miss_a_view(url: str, sql: asyncpg.Connection, release: Release) -> None:
    """While views and functions are replaced, made anew and dropped, every query of readers succeeds."""
    done = asyncio.Event()
    views = [view for (view,) in await sql.fetch(VIEWS)]

    async def read_all() -> int:
        count = 0
        reader = await asyncpg.connect(url, statement_cache_size=0)
        while not done.is_set():
            for view in views:
                await reader.fetch(f"select * from fine_tuning.{view}")
                count += 1
                await asyncio.sleep(0.01)  # readers that never pause would keep the views locked all the time
        await reader.close()
        return count

    readers = [asyncio.create_task(read_all()) for _ in range(2)]
    for edits in (ONE_MORE_ARGUMENT, ANOTHER_COLUMN, ANOTHER_RESULT, ()):
        release(*edits)
        await _upgrade(url)
    done.set()
    assert min(await asyncio.gather(*readers)) > len(views)
    assert [] == await sql.fetch(OUTDATED)
