"""The daemon notices that its database was restored, or that the database's clock was set."""

import asyncpg
from structlog.testing import capture_logs

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
        changes, lost = DatabaseChanges(store, health, KINDS, [source]), source.key
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
        await DatabaseChanges(store, Health(), KINDS, []).check()


async def test_not_ready_while_a_source_has_no_row(store: Store, sql: asyncpg.Connection) -> None:
    """A source that cannot be registered is a problem, until it can be registered."""
    health = Health()
    changes = DatabaseChanges(store, health, KINDS, [])
    await sql.execute("alter table checkpointd.sources add constraint no_rows check (name = '')")
    await changes.check()
    (problem,) = health.problems()
    assert problem.startswith("database: registration failed: ")
    await sql.execute("alter table checkpointd.sources drop constraint no_rows")
    await changes.check()
    assert [] == health.problems()


async def test_step_of_the_clock_is_logged(url: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """A step of the database's clock is logged once, with its seconds; a clock that runs normally is not."""
    await sql.execute(SHIFTED_CLOCK)
    async with open_store(lambda: connect_shifted(url)) as store, open_source(store, provider) as source:
        changes = DatabaseChanges(store, Health(), {"test": "openai"}, [source])
        for hours in (1, 0):
            with capture_logs() as lines:
                await changes.check()
                await changes.check()
                await sql.execute("update shifted.by set shift = make_interval(hours => $1)", hours)
                await changes.check()
            steps = [line["seconds"] for line in lines if line["event"] == "database.clock_stepped"]
            assert [3600 if hours else -3600] == [round(step, -1) for step in steps]
