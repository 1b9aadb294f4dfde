"""The views, read as BI tools and data frames read them: every column, groups, ranges of time.

The libraries are imported in the tests that use them: their import takes seconds in each worker.
"""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from support import history
from support.documents import Document
from support.logins import login

COLUMNS = """
    select c.relname as view, array_agg(a.attname order by a.attnum) as names,
      array_agg(format_type(a.atttypid, null) order by a.attnum) as types
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'fine_tuning'::regnamespace group by c.relname order by c.relname"""
COMPANIONS = {"json": ("_jsonb", "jsonb"), "interval": ("_seconds", "double precision")}
"""The types that many tools cannot use: the ending of the column that such a tool uses instead, and its type."""

TIMES = {
    "archive": "checkpoints_listed_at",
    "best_checkpoints": "created_at",
    "best_steps": "created_at",
    "changes": "at",
    "checkpoint_metrics": "created_at",
    "checkpoints": "created_at",
    "comparison": "created_at",
    "earlier_steps": "stored_at",
    "event_lists": "last_attempt_at",
    "events": "created_at",
    "findings": "since",
    "freshness": "last_complete_at",
    "jobs": "created_at",
    "operations": "at",
    "polls": "first_at",
    "rejects": "first_seen_at",
    "sources": "since",
    "steps": "created_at",
    "webhooks": "last_attempt_at",
}
"""The time of each view by which a dashboard selects rows."""

HOSTILE = """
    update checkpointd.checkpoints
    set extra_metrics = '{"reward": 1e300, "\\": 99999999999999999999": 0.1, "id": 9223372036854775807}'
    where job = 3;
    update checkpointd.jobs
    set error = '{"code": "bad", "message": "line 1\\n<b>", "param": null}', metadata = '{"n": 1e300, "m": [[-1e20]]}'
    where status = 'failed';
    update checkpointd.jobs
    set hyperparameters = '{"n_epochs": "auto", "batch_size": 1e300, "learning_rate_multiplier": 0.5}'
    where key % 7 = 0;
    update checkpointd.rejects set raw = '\\x00ff41' where job = 100;
    update checkpointd.sources set former_names = '{old}' where name = 'openai';
    insert into checkpointd.operations (job, operation) select key, 'track' from checkpointd.jobs where key < 9;
    insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
    select key, 0, now(), now(), 20 from checkpointd.jobs where key < 9;
    insert into checkpointd.steps (job, step_number, created_at, valid_loss, full_valid_loss, id, extra_metrics)
    select key, n, extract(epoch from now()) - n, n, n, 'ftevent-' || n, '{"reward": 1e300}'
    from checkpointd.jobs, generate_series(1, 20) as n where key < 9;
    insert into checkpointd.earlier_steps (job, step_number, id, extra_metrics)
    select key, 1, 'ftevent-0', '{"reward": -1e300}' from checkpointd.jobs where key < 9;
    insert into checkpointd.events (job, created_at, id, level, message)
    select key, extract(epoch from now()), 'ftevent-message', 'info', 'started' from checkpointd.jobs where key < 9;
    insert into checkpointd.findings (source, job, kind, since, message)
    select source, key, 'stalled', now(), 'no news' from checkpointd.jobs where key < 9;
    insert into checkpointd.webhooks (name, cursor, attempt_at) values ('slack', 1, now())"""
"""Values that break tools, and rows for the views without any."""

VALUES: list[tuple[tuple[object, ...], str]] = [
    ((True,), "select bool_and(poll_count = count) from fine_tuning.polls"),
    ((True,), "select bool_and(seen_count = count) from fine_tuning.rejects"),
    (("\\000\\377A", "x"), "select min(raw_text), max(raw_text) from fine_tuning.rejects"),
    ((0.5, None), "select max(new_number), max(old_number) from fine_tuning.changes where kind = 'changed'"),
    (
        (None, 1e300, 0.5),
        """select n_epochs, batch_size, learning_rate_multiplier from fine_tuning.jobs
        where hyperparameters ->> 'n_epochs' = 'auto'""",
    ),
    ((10, None), "select n_epochs, batch_size from fine_tuning.jobs where hyperparameters ->> 'n_epochs' = '10'"),
    (("bad", "line 1\n<b>"), "select error_code, error_message from fine_tuning.jobs where status = 'failed'"),
    ((None, None), "select error_code, error_message from fine_tuning.jobs where status = 'running'"),
    ((True,), "select bool_and(source = name) from fine_tuning.sources"),
    ((True,), "select bool_and(fine_tuning_job_id = id) from fine_tuning.jobs"),
    (
        ('{"m": [[-100000000000000000000.0]], "n": 1' + 300 * "0" + ".0}",),
        "select metadata_jsonb::text from fine_tuning.jobs where status = 'failed'",
    ),
    (
        ('{"id": 9223372036854775807, "reward": 1' + 300 * "0" + '.0, "\\": 99999999999999999999": 0.1}',),
        "select extra_metrics::text from fine_tuning.checkpoints where extra_metrics ? 'id'",
    ),
    (
        ("gpt-4.1-mini-2025-04-14", "succeeded", True),
        """select b.model, b.status, b.created_at = c.created_at
        from fine_tuning.jobs j
        join fine_tuning.best_checkpoints b on b.source = j.source and b.fine_tuning_job_id = j.fine_tuning_job_id
        join fine_tuning.checkpoints c on c.id = b.checkpoint_id
        where j.fine_tuned_model = 'ft:tone:1'""",
    ),
]
"""Values that the columns for tools must have, and queries that return them."""


@pytest.fixture
async def reader(url: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """Yield the URL of a reader of a database in which every view has rows."""
    await history.fill(sql, 200, 10)
    await sql.execute(HOSTILE)
    async with login(url, "in role checkpointd_reader") as reader_url:
        yield reader_url


async def _views(sql: asyncpg.Connection) -> dict[str, dict[str, str]]:
    """Return the type of each column of each view."""
    return {row["view"]: dict(zip(row["names"], row["types"], strict=True)) for row in await sql.fetch(COLUMNS)}


async def _counts(sql: asyncpg.Connection) -> dict[str, int]:
    """Return the number of rows of each view."""
    return {view: await sql.fetchval(f"select count(*) from fine_tuning.{view}") for view in await _views(sql)}


def _for_connectorx(url: str) -> str:
    """Return the URL of a socket with its folder as the host, as connectorx needs it."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    if "host" not in options:
        return url
    return f"postgresql://{parts.username}@{quote(options['host'][0], safe='')}:{options['port'][0]}{parts.path}"


async def test_companions(sql: asyncpg.Connection) -> None:
    """A column of a type that many tools cannot use has a companion of a type that they can use."""
    for view, columns in (await _views(sql)).items():
        for name, kind in columns.items():
            ending, usable = COMPANIONS.get(kind, ("", kind))
            assert usable == columns.get(name + ending), (view, name)


async def test_names_to_join_by(sql: asyncpg.Connection) -> None:
    """Each view has the columns source and, unless it is about sources, fine_tuning_job_id: filters match by name.

    The view webhooks is about neither.
    """
    views = await _views(sql)
    del views["webhooks"]
    assert [] == [view for view, columns in views.items() if columns.get("source") != "text"]
    assert ["sources"] == [view for view, columns in views.items() if columns.get("fine_tuning_job_id") != "text"]


async def test_groups(reader: str) -> None:
    """A reader can group by each column, except those of type json, and can sort the groups."""
    sql = await asyncpg.connect(reader)
    counts = await _counts(sql)
    for view, columns in (await _views(sql)).items():
        for name in (name for name, kind in columns.items() if kind != "json"):
            groups = await sql.fetch(
                f'select "{name}", count(*) as rows from fine_tuning.{view} group by "{name}" order by "{name}"'
            )
            assert counts[view] == sum(row["rows"] for row in groups), (view, name)
    await sql.close()


async def test_ranges_of_time(reader: str) -> None:
    """Each view has a time by which a range selects rows: two halves of a range have the rows of the whole range."""
    sql = await asyncpg.connect(reader)
    assert TIMES.keys() == (await _views(sql)).keys()
    for view, time in TIMES.items():
        ranges = await sql.fetchrow(f"""
            with middle as materialized (
              select percentile_disc(0.5) within group (order by {time}) as at from fine_tuning.{view})
            select (select count({time}) from fine_tuning.{view}),
              (select count(*) from fine_tuning.{view}
                where {time} >= now() - interval '1 y' and {time} < (select at from middle)),
              (select count(*) from fine_tuning.{view}
                where {time} >= (select at from middle) and {time} < now() + interval '1 d')""")
        whole, earlier, later = ranges or ()
        assert whole == earlier + later, view
        assert later > 0, view
    await sql.close()


async def test_values(reader: str) -> None:
    """The columns for tools have the values of the columns that they stand beside."""
    sql = await asyncpg.connect(reader)
    for expected, query in VALUES:
        assert expected == tuple(await sql.fetchrow(query) or ()), query
    await sql.close()


async def test_pandas(reader: str, sql: asyncpg.Connection) -> None:
    """SQLAlchemy knows the type of each column, and pandas reads all rows and columns of each view."""

    def read() -> dict[str, int]:
        import pandas as pd  # noqa: PLC0415
        import sqlalchemy as sa  # noqa: PLC0415

        engine = sa.create_engine(reader.replace("postgresql://", "postgresql+psycopg://"))
        inspector, found = sa.inspect(engine), {}
        with engine.connect() as connection:
            for view in inspector.get_view_names(schema="fine_tuning"):
                columns = inspector.get_columns(view, schema="fine_tuning")
                assert [] == [column["name"] for column in columns if isinstance(column["type"], sa.types.NullType)]
                frame = pd.read_sql_query(sa.text(f"select * from fine_tuning.{view}"), connection)
                assert [column["name"] for column in columns] == list(frame.columns)
                found[view] = len(frame)
        engine.dispose()
        return found

    assert await _counts(sql) == await asyncio.to_thread(read)


async def test_polars(reader: str, sql: asyncpg.Connection) -> None:
    """Polars reads each view: all columns by a driver, and by connectorx all but those of type interval."""
    views = await _views(sql)
    (in_the_guide,) = Document("sql/README.md").blocks("python", "BI tools and data frames")

    def read() -> list[dict[str, int]]:
        import polars as pl  # noqa: PLC0415
        import psycopg  # noqa: PLC0415

        by_driver, by_connectorx = {}, {}
        with psycopg.connect(reader) as connection:
            for view in views:
                query = f"select * from fine_tuning.{view}"
                names = {"polars": pl, "query": query, "connection": connection}
                by_driver[view] = eval(in_the_guide, names).height
        for view, columns in views.items():
            names = ", ".join(f'"{name}"' for name, kind in columns.items() if kind != "interval")
            frame = pl.read_database_uri(f"select {names} from fine_tuning.{view}", _for_connectorx(reader))
            by_connectorx[view] = frame.height
        return [by_driver, by_connectorx]

    counts = await _counts(sql)
    assert [counts, counts] == await asyncio.to_thread(read)
