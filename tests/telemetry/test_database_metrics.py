"""What the metrics tell from the database, and what becomes of it when the database is away."""

import asyncio
import math
import re
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.store import Store
from checkpointd.telemetry import database_metrics as gauges
from checkpointd.telemetry import metrics
from checkpointd.telemetry.health import Health
from checkpointd.web import server as web
from support.harness import polling_one, sync, track
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, get, running, wait_for_line

NAMES = ("stale", "failing", "unreadable", "suspected_gap")


def _value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"checkpointd_{name}", {"source": "test", **labels})


def _jobs() -> dict[str, float | None]:
    """Return the numbers of jobs of the source that are in trouble, without those that are 0."""
    return {name: count for name in NAMES if (count := _value(f"{name}_jobs"))}


def _phases() -> dict[str, float | None]:
    return {phase: count for phase in gauges.PHASES if (count := _value("tracked_jobs", phase=phase))}


async def test_no_jobs(store: Store, health: Health) -> None:
    """A source without jobs shows its state, and each number as 0: Prometheus cannot reckon with what is not there."""
    await store.register_sources({"test": "openai"})
    await gauges.refresh(store, health)
    assert [1, 0, 0] == [_value("source_state", state=state) for state in gauges.STATES]
    assert {0} == {_value("tracked_jobs", phase=phase) for phase in gauges.PHASES}
    assert {0} == {_value(f"{name}_jobs") for name in NAMES}
    assert 0 == _value("oldest_lag_seconds")


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        ({}, "last_complete_at = now() - interval '30 s'"),
        ({"stale": 1}, "last_complete_at = now() - interval '1 day'"),
        ({}, "last_complete_at = now() - interval '1 day', sealed_at = now()"),
        ({"failing": 1}, "failures = 2, error_class = 'network'"),
        ({"unreadable": 1}, "last_success_at = last_complete_at - interval '1 s'"),
        ({"unreadable": 1}, "last_success_at = null"),
    ],
)
async def test_jobs_in_trouble(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: dict[str, float], change: str, health: Health
) -> None:
    """A job is counted where it is stale, failing, or not read in full; one that is sealed is not late."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await sql.execute(f"update checkpointd.polling set {change}")
    await gauges.refresh(store, health)
    assert expected == _jobs()


async def test_phases_and_lag(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """Jobs are counted by phase, untracked ones not at all; the oldest lag is that of a job still followed."""
    await track(store, "ftjob-a", "ftjob-b", "ftjob-sealed", "ftjob-gone", "ftjob-untracked")
    await store.untrack(await store.find_jobs(["ftjob-untracked"]))
    for job, change in {
        "ftjob-b": "last_complete_at = now() - interval '100 s'",
        "ftjob-sealed": "sealed_at = now(), last_complete_at = now() - interval '1 day'",
        "ftjob-gone": "last_complete_at = now() - interval '1 day', error_class = 'missing', failures = 9, "
        "is_gone = true",
    }.items():
        await sql.execute(
            f"update checkpointd.polling p set {change} from checkpointd.jobs j where j.key = p.job and j.id = $1", job
        )
    await gauges.refresh(store, health)
    assert {"active": 2, "sealed": 1, "gone": 1} == _phases()
    assert 100 <= (_value("oldest_lag_seconds") or 0) < 200


async def test_suspected_gap(store: Store, provider: Provider, sql: asyncpg.Connection, health: Health) -> None:
    """A suspected gap counts while its job is followed."""
    provider.checkpoints[JOB] = page([checkpoint(n) for n in (4, 2, 1)])
    await sync(store, provider)
    await gauges.refresh(store, health)
    assert {"suspected_gap": 1} == _jobs()
    await sql.execute("update checkpointd.polling set sealed_at = now()")
    await gauges.refresh(store, health)
    assert {} == _jobs()


@pytest.mark.parametrize("state", ["paused", "refused"])
async def test_state_of_a_source(store: Store, sql: asyncpg.Connection, state: str, health: Health) -> None:
    """A source is in one state, and the others are 0."""
    await store.register_sources({"test": "openai"})
    await gauges.refresh(store, health)
    await sql.execute("update checkpointd.sources set state = $1", state)
    await gauges.refresh(store, health)
    assert {state: 1.0} == {name: v for name in gauges.STATES if (v := _value("source_state", state=name))}


async def test_withdrawn_while_the_database_hangs(
    store: Store, sql: asyncpg.Connection, port: int, monkeypatch: pytest.MonkeyPatch, health: Health
) -> None:
    """With a database that hangs, /metrics answers at once, shows no old number, and says that the database is down."""
    await track(store)
    await gauges.refresh(store, health)
    assert {"active": 1} == _phases()
    monkeypatch.setattr(gauges, "READ_SECONDS", 2)  # less than the connection waits for a lock
    async with sql.transaction(), web.serve("127.0.0.1", port, health.problems, store):
        await sql.execute("savepoint open; lock checkpointd.polling in access exclusive mode")
        for left in (2, 1, 0):
            counting = asyncio.create_task(gauges.refresh(store, health))
            await asyncio.sleep(0)
            shown = (await get(port, "/metrics"))[1]
            if not counting.done():
                break
            assert left, "it waited for the database"  # a machine that stands still has three tries
            await sql.execute("rollback to savepoint open")
            await gauges.refresh(store, health)
            await sql.execute("lock checkpointd.polling in access exclusive mode")
        assert 'checkpointd_tracked_jobs{phase="active",source="test"} 1.0' in shown
        await counting
        shown = (await get(port, "/metrics"))[1]
        assert "checkpointd_database_up 0.0" in shown
        assert [] == re.findall(r"^checkpointd_\w+_(?:jobs|seconds|state)\{.*source=.*", shown, flags=re.MULTILINE)
        assert (
            503,
            "database: counting failed: no answer in time: is it up, and is its address right?\n",
        ) == await get(port, "/readyz")
    await gauges.refresh(store, health)
    assert {"active": 1} == _phases()
    assert [] == health.problems()


async def test_a_source_at_rest_is_no_dead_daemon(store: Store, provider: Provider) -> None:
    """A tick counts though the provider asked for a pause and there is nothing to claim."""
    metrics.LAST_TICK.set(0)
    async with polling_one(store, provider) as (poller, service, _):
        service.silent_until = math.inf
        assert 0 == await poller.tick()
    assert 0 < (metrics.REGISTRY.get_sample_value("checkpointd_last_tick_timestamp_seconds") or 0)


async def test_a_daemon_whose_database_goes_away(provider: Provider, tmp_path: Path) -> None:
    """/readyz and /metrics of a daemon say what is wrong, in words and without secrets, and when it is over."""
    database = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    url = (await database.start_or_connect()).replace("://postgres@", "://postgres:canary-password@")
    assert "canary-password" in url
    await database.stop()
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
    provider.checkpoints[JOB] = page([checkpoint(1)])

    async def until(status: int, words: str, **metrics: float) -> None:
        wanted = {f"checkpointd_{name} {value:.1f}" for name, value in metrics.items()}
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            (found, said), (_, shown) = await get(port, "/readyz"), await get(port, "/metrics")
            assert "canary" not in said + shown
            if found == status and words in said and wanted <= set(shown.splitlines()):
                break
            assert asyncio.get_running_loop().time() < deadline, (found, said, shown)
            await asyncio.sleep(0.05)
        assert (200, "ok\n") == await get(port, "/livez")

    async with running("run", env=env) as daemon:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
        await until(503, "database: ", ready=0, database_up=0, last_tick_timestamp_seconds=0)
        await database.start_or_connect()
        await until(503, "run `checkpointd migrate`", ready=0, database_up=1)
        await checkpointd("migrate", env=env)
        await until(200, "ok", ready=1, database_up=1)
        await database.stop()
        await until(503, "database: claim failed: ", ready=0, database_up=0)
        await database.start_or_connect()
        await until(200, "ok", ready=1, database_up=1)
    await database.stop()
