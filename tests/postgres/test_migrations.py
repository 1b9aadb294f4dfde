"""Creating the schema, upgrading it, and refusing one that does not fit."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres import migrations, queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.errors import MigrationError
from checkpointd.postgres.migrations import migrate, require_current

VIEWS = f"views {migrations.VIEWS_VERSION}"
TYPES = "select format_type($1::oid, null) = format_type(to_regtype($2), null)"
MAKE_VIEWS_DIFFER = "update checkpointd.schema_migrations set checksum = 'x' where name like 'views%'"


async def _migrate(url: str) -> list[str]:
    connection = await connect(url)
    try:
        return (await migrate(connection)).files
    finally:
        await connection.close()


async def test_six_at_once(empty_url: str) -> None:
    """Six migrations that start at the same time on an empty database all succeed, and each file is applied once."""
    applied = await asyncio.gather(*(_migrate(empty_url) for _ in range(6)))
    files = {file.name for file in (queries.folder() / "migrations").iterdir()}
    assert sorted({*files, VIEWS}) == sorted(name for names in applied for name in names)


async def test_foreign_schema(empty_url: str) -> None:
    """If a schema of the same name exists that checkpointd did not create, the error says what to do."""
    admin = await asyncpg.connect(empty_url)
    await admin.execute("create schema fine_tuning")
    with pytest.raises(MigrationError, match='"fine_tuning" already exists, and checkpointd did not create it: r'):
        await _migrate(empty_url)
    await admin.close()


async def test_again_does_nothing(empty_url: str) -> None:
    """A second migration applies nothing."""
    await _migrate(empty_url)
    assert [] == await _migrate(empty_url)


async def test_empty_database_is_not_current(empty_url: str) -> None:
    """A database without the schema is refused, and the error says what to do."""
    connection = await connect(empty_url)
    with pytest.raises(MigrationError, match="checkpointd migrate"):
        await require_current(connection)
    await connection.close()


async def test_newer_database_is_refused(url: str, sql: asyncpg.Connection) -> None:
    """A database that was migrated by a newer version is refused."""
    await sql.execute("insert into checkpointd.schema_migrations values ('9999_future.sql', 'x')")
    with pytest.raises(MigrationError, match="newer"):
        await _migrate(url)


async def test_newer_views_are_refused(url: str, sql: asyncpg.Connection) -> None:
    """Views of a newer version are not replaced by older ones, for example while replicas are upgraded."""
    newer = f"views {migrations.VIEWS_VERSION + 1}"
    await sql.execute(
        "update checkpointd.schema_migrations set name = $1, checksum = 'x' where name = $2", newer, VIEWS
    )
    with pytest.raises(MigrationError, match="newer than this checkpointd"):
        await _migrate(url)


async def test_edited_file_is_refused(url: str, sql: asyncpg.Connection) -> None:
    """A migration that differs from the file that was applied is refused."""
    await sql.execute("update checkpointd.schema_migrations set checksum = 'x' where name = '0001_initial.sql'")
    with pytest.raises(MigrationError, match=r"0001_initial\.sql"):
        await _migrate(url)


async def test_views_are_replaced(url: str, sql: asyncpg.Connection) -> None:
    """Views are replaced if their files differ from those that were applied, and keep their grants."""
    await sql.execute("create role guest")
    await sql.execute("grant select on fine_tuning.jobs to guest")
    await sql.execute(MAKE_VIEWS_DIFFER)
    assert [VIEWS] == await _migrate(url)
    assert await sql.fetchval("select has_table_privilege('guest', 'fine_tuning.jobs', 'select')")
    await sql.execute("drop owned by guest")
    await sql.execute("drop role guest")


async def test_upgrade_summarises_what_is_stored(url: str, sql: asyncpg.Connection) -> None:
    """An upgrade from a version without summaries writes those of the stored checkpoints."""
    await sql.execute(
        """insert into checkpointd.sources (name, kind) values ('test', 'openai');
        insert into checkpointd.jobs (source, id, tracked_by)
        select key, 'ftjob-1', 'operator' from checkpointd.sources;
        insert into checkpointd.polling (job, source) select key, source from checkpointd.jobs;
        insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, payload)
        select key, 'ftckpt_' || n, 10 * n, 0, 'ft', '{}' from checkpointd.jobs, generate_series(1, 3) n;
        delete from checkpointd.schema_migrations where name like 'views%'"""
    )
    assert [VIEWS] == await _migrate(url)
    assert (3, 30) == tuple(await sql.fetchrow("select checkpoint_count, latest_step from fine_tuning.jobs") or ())


async def test_a_locked_view_is_waited_for(url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a dashboard has locked a view, the migration tries again and again, and succeeds when the lock is released."""
    monkeypatch.setattr(migrations, "LOCK_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "50ms")
    await sql.execute(MAKE_VIEWS_DIFFER)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("lock table fine_tuning.jobs in access share mode")
    connection = await connect(url)
    locking = 0

    def count_locks(query: asyncpg.connection.LoggedQuery) -> None:
        nonlocal locking
        locking += query.query == queries.LOCK_SCHEMA_MIGRATIONS

    with connection.query_logger(count_locks):
        migrating = asyncio.create_task(migrate(connection))
        async with asyncio.timeout(60):
            while locking < 3:  # noqa: ASYNC110  # the driver gives no event
                await asyncio.sleep(0.01)  # until the third attempt
    assert not migrating.done()
    await transaction.rollback()
    assert [VIEWS] == (await migrating).files
    await connection.close()


async def test_everything_is_commented(sql: asyncpg.Connection) -> None:
    """Every table, view, column and function has a comment."""
    rows = await sql.fetch("""
        select c.oid::regclass::text || coalesce('.' || a.attname, '') as name
        from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind in ('r', 'v') and c.relnamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
          and (col_description(c.oid, a.attnum) is null or obj_description(c.oid) is null)
        union all
        select oid::regprocedure::text from pg_proc
        where pronamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
          and obj_description(oid, 'pg_proc') is null""")
    assert [] == [row["name"] for row in rows]


async def test_constraints_are_named(sql: asyncpg.Connection) -> None:
    """No check constraint has a name that PostgreSQL generated."""
    rows = await sql.fetch("""
        select conname from pg_constraint
        where contype = 'c' and connamespace = 'checkpointd'::regnamespace and conname ~ '_check[0-9]*$'""")
    assert [] == rows


async def test_queries_and_files_agree(sql: asyncpg.Connection) -> None:
    """Each file of sql/queries has a constant, begins with its purpose, and is accepted by a migrated database."""
    files = {f.name.removesuffix(".sql") for f in (queries.folder() / "queries").iterdir()}
    constants = {name.lower(): text for name, text in vars(queries).items() if name.isupper()}
    assert files == constants.keys()
    for name, text in constants.items():
        assert re.match(r"-- [A-Z].*\.", text), name
        await sql.prepare(text)


async def test_queries_describe_their_parameters(sql: asyncpg.Connection) -> None:
    """Each query lists its parameters at the top, one per line, with their names, types and meanings."""
    for name, text in vars(queries).items():
        if not name.isupper():
            continue
        comments = re.match(r"(?:--.*\n)+", text)
        assert comments, name
        described = re.findall(r"^-- \$(\d+) (\w+): ([\w\[\]]+)", comments[0], flags=re.MULTILINE)
        parameters = (await sql.prepare(text)).get_parameters()
        assert [str(n) for n in range(1, len(parameters) + 1)] == [n for n, _, _ in described], name
        for parameter, (_, of, type_) in zip(parameters, described, strict=True):
            assert await sql.fetchval(TYPES, parameter.oid, type_), (name, of)
        names = {n: of for n, of, _ in described}
        for arrays, columns in re.findall(r"unnest\(([^)]*)\)(?: with ordinality)?\s+as \w+ \(([^)]*)\)", text):
            columns_of_arrays = columns.split()[: arrays.count("$")]
            assert [names[n] for n in re.findall(r"\$(\d+)", arrays)] == [c.strip(",") for c in columns_of_arrays], name


def test_lines_are_short() -> None:
    """No line of SQL has 120 characters or more, except in the five migrations that were published with longer ones."""
    files = [path for path in Path(str(queries.folder())).rglob("*.sql") if not re.match(r"000[1-5]_", path.name)]
    for path in files:
        assert [] == [line for line in path.read_text().splitlines() if len(line) >= 120], path.name
