"""The daemon notices that its database was restored, or that the database's clock was set."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg
from structlog.testing import capture_logs

from checkpointd.polling.job_list import JobList
from checkpointd.postgres.store import Store, open_store
from checkpointd.service.database_changes import DatabaseChanges
from checkpointd.telemetry.health import Health
from support.harness import open_source, polling_one, tick, track
from support.provider import JOB, Provider, checkpoint, page
from support.shifted import SHIFTED_CLOCK, connect_shifted

KINDS = {"test": "openai", "without a key": "azure"}


async def test_lost_source_is_registered_again(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the rows of sources are lost, they are inserted again, and this process polls the new jobs of its source."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    health = Health()
    async with polling_one(store, provider) as (poller, source, _):
        changes, lost = DatabaseChanges(store, health, KINDS, [source], lambda _: {}), source.key
        await sql.execute("truncate checkpointd.sources cascade")
        assert 0 == await tick(poller)
        with capture_logs() as lines:
            await changes.check()
            await changes.check()
        assert ["source.registered"] == [line["event"] for line in lines]
        assert lost != source.key
        await track(store)
        assert 1 == await tick(poller)
    assert sorted(KINDS) == [row["name"] for row in await sql.fetch("select name from fine_tuning.sources order by 1")]


async def test_rows_are_locked_only_to_register(store: Store, sql: asyncpg.Connection) -> None:
    """A check that finds all rows writes nothing."""
    await store.register_sources(KINDS)
    async with sql.transaction():
        await sql.execute("select from checkpointd.sources for update")
        await DatabaseChanges(store, Health(), KINDS, [], lambda _: {}).check()


async def test_not_ready_while_a_source_has_no_row(store: Store, sql: asyncpg.Connection) -> None:
    """A source that cannot be registered is a problem, until it can be registered."""
    health = Health()
    changes = DatabaseChanges(store, health, KINDS, [], lambda _: {})
    await sql.execute("alter table checkpointd.sources add constraint no_rows check (name = '')")
    await changes.check()
    (problem,) = health.problems()
    assert problem.startswith("database: registration failed: ")
    await sql.execute("alter table checkpointd.sources drop constraint no_rows")
    await changes.check()
    assert [] == health.problems()


async def _restore(url: str, postgres: str, migrated: str, key: int) -> asyncpg.Connection:
    """Put an older database in the place of the test's, which has only the source `test`. Returns a connection."""
    admin, name = await asyncpg.connect(postgres.format("postgres")), urlsplit(url).path[1:]
    await admin.execute(f"drop database {name} with (force)")
    await admin.execute(f"create database {name} template {migrated} strategy file_copy")
    await admin.close()
    restored = await asyncpg.connect(url)
    await restored.execute("insert into checkpointd.sources (key, name, kind) values ($1, 'test', 'openai')", key)
    return restored


async def test_objectives_after_a_restore(
    store: Store, provider: Provider, sql: asyncpg.Connection, url: str, postgres: str, migrated: str
) -> None:
    """Sources get their objectives again if their rows are lost or are older ones, and only then."""
    read = "select objective_metric from checkpointd.sources where name = 'test'"
    async with open_source(store, provider) as source:
        key = source.key

        def objectives(keys: Mapping[str, int]) -> dict[int, tuple[str, str] | None]:
            return {keys["test"]: ("reward", "maximize"), keys["without a key"]: None}

        changes = DatabaseChanges(store, Health(), KINDS, [source], objectives)
        await changes.check()
        assert "reward" == await sql.fetchval(read)
        restored = await _restore(url, postgres, migrated, source.key)
        assert None is await restored.fetchval(read)
        for _ in range(2):  # the first one may meet a connection that has ended
            await changes.check()
        assert ("reward", key) == (await restored.fetchval(read), source.key)
        await restored.execute("update checkpointd.sources set objective_metric = 'cost' where key = $1", key)
        await changes.check()
        assert "cost" == await restored.fetchval(read)
        await restored.execute("truncate checkpointd.sources cascade")
        await changes.check()
        assert "reward" == await restored.fetchval(read)
        assert key != source.key
        await restored.close()


async def test_rejects_of_the_job_list_after_a_restore(
    store: Store, provider: Provider, sql: asyncpg.Connection, url: str, postgres: str, migrated: str
) -> None:
    """An item that cannot be read is stored again after a restore, although the daemon has read it before."""
    provider.jobs = page([{"object": "fine_tuning.job"}])
    rejects = "select count(*) from fine_tuning.rejects"
    async with open_source(store, provider) as source:
        job_list = JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=0)
        changes = DatabaseChanges(store, Health(), {"test": "openai"}, [source], lambda _: {})
        await changes.check()
        assert await job_list.tick(due_or_not=True)
        assert 1 == await sql.fetchval(rejects)
        restored = await _restore(url, postgres, migrated, source.key)
        for _ in range(2):  # the first one may meet a connection that has ended
            await changes.check()
        assert await job_list.tick(due_or_not=True)
        assert 1 == await restored.fetchval(rejects)
        await restored.close()


async def test_step_of_the_clock_is_logged(url: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """A step of the database's clock is logged once, with its seconds; a clock that runs normally is not."""
    await sql.execute(SHIFTED_CLOCK)
    async with open_store(lambda: connect_shifted(url)) as store, open_source(store, provider) as source:
        changes = DatabaseChanges(store, Health(), {"test": "openai"}, [source], lambda _: {})
        for hours in (1, 0):
            with capture_logs() as lines:
                await changes.check()
                await changes.check()
                await sql.execute("update shifted.by set shift = make_interval(hours => $1)", hours)
                await changes.check()
            steps = [line["seconds"] for line in lines if line["event"] == "database.clock_stepped"]
            assert [3600 if hours else -3600] == [round(step, -1) for step in steps]
