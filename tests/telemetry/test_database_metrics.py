"""The metrics that are read from the database, also while the database is unavailable."""

import asyncio
import re
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from checkpointd.telemetry import database_metrics, metrics
from checkpointd.telemetry.health import Health
from checkpointd.web import server as web
from support.finding_histories import OVERFITTING, History, add
from support.harness import polling_one, sync, track
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, get, running, wait_for_line
from support.waiting import eventually

PROBLEMS = ("stale", "failing", "unreadable", "suspected_gap", "unstable")


def _value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"checkpointd_{name}", {"source": "test", **labels})


def _problems() -> dict[str, float | None]:
    """Return how many jobs of the source have each problem, without zeros."""
    return {name: count for name in PROBLEMS if (count := _value(f"{name}_jobs"))}


def _phases() -> dict[str, float | None]:
    """Return how many jobs of the source are in each phase, without zeros."""
    return {phase: count for phase in database_metrics.PHASES if (count := _value("tracked_jobs", phase=phase))}


async def test_no_jobs(store: Store, health: Health) -> None:
    """A source without jobs has a state, and its numbers are 0: Prometheus cannot compute with absent values."""
    await store.register_sources({"test": "openai"})
    await database_metrics.refresh(store, health, ["test"])
    assert [1, 0, 0, 0] == [_value("source_state", state=state) for state in database_metrics.STATES]
    assert {0} == {_value("tracked_jobs", phase=phase) for phase in database_metrics.PHASES}
    assert {0} == {_value(f"{name}_jobs") for name in PROBLEMS}
    assert [0, 0] == [_value("oldest_lag_seconds"), _value("expiring_checkpoints")]


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        ({}, "last_complete_at = now() - interval '30 s'"),
        ({"stale": 1}, "last_complete_at = now() - interval '1 day'"),
        ({}, "last_complete_at = now() - interval '1 day', sealed_at = now()"),
        ({"failing": 1}, "failures = 2, error_class = 'network'"),
        ({"unreadable": 1}, "last_success_at = last_complete_at - interval '1 s'"),
        ({"unreadable": 1}, "last_success_at = null"),
        ({"unstable": 1}, "unstable_since = now()"),
        ({}, "unstable_since = now(), sealed_at = now()"),
    ],
)
async def test_jobs_with_problems(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: dict[str, float], change: str, health: Health
) -> None:
    """Stale jobs, failing jobs and jobs with unreadable items are counted; a sealed job is not stale."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await sql.execute(f"update checkpointd.polling set {change}")
    await database_metrics.refresh(store, health, ["test"])
    assert expected == _problems()


async def test_open_findings(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """Open findings are counted by kind, with zeros, and resolved ones are not."""
    await store.register_sources({"test": "openai"})
    for name in ("ftjob-a", "ftjob-b"):
        await add(sql, name, History("", losses=OVERFITTING))
    await evaluate_findings(store)
    await database_metrics.refresh(store, health, ["test"])
    assert [2, 0] == [_value("open_findings", kind=kind) for kind in ("overfitting", "finished")]
    await sql.execute("update checkpointd.findings set until = now()")
    await database_metrics.refresh(store, health, ["test"])
    assert 0 == _value("open_findings", kind="overfitting")


async def test_webhooks(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """Each webhook of the settings has its failures, its lag and what was not delivered. Others have no metrics."""
    await track(store)
    await sql.execute("""
        insert into checkpointd.changes (job, kind, at)
        select key, 'new', now() - interval '10 min' from checkpointd.jobs;
        insert into checkpointd.webhooks (name, cursor, failures, undelivered, undelivered_seq)
        values ('chat', 0, 3, 2, 1), ('removed', 0, 9, 9, 1)""")

    def shown(name: str) -> list[float | None]:
        names = ("failures", "lag_seconds", "undelivered_messages")
        return [metrics.REGISTRY.get_sample_value(f"checkpointd_webhook_{of}", {"webhook": name}) for of in names]

    await database_metrics.refresh(store, health, ["test"], ["chat", "new"])
    failures, lag, undelivered = shown("chat")
    assert (3, 2) == (failures, undelivered)
    assert 600 <= (lag or 0) < 700
    assert [None] * 6 == [*shown("removed"), *shown("new")]
    last = "select max(seq) from checkpointd.changes"
    await sql.execute(f"update checkpointd.webhooks set failures = 0, cursor = ({last})")
    await database_metrics.refresh(store, health, ["test"], ["chat"])
    assert [0, 0, 2] == shown("chat")
    await database_metrics.refresh(store, health, ["test"])
    assert [None] * 3 == shown("chat")


async def test_every_kind_is_counted(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """The metric has each kind that the table permits."""
    await store.register_sources({"test": "openai"})
    await database_metrics.refresh(store, health, ["test"])
    permitted = await sql.fetchval(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'findings_kind_known'"
    )
    kinds = set(re.findall("'([a-z_]+)'", permitted))
    assert kinds == {kind for kind in kinds if _value("open_findings", kind=kind) == 0}


async def test_expiring_checkpoints(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """Listed checkpoints that expire within three days are counted, without those of untracked and gone jobs."""
    await store.register_sources({"test": "openai"})
    expired = """update checkpointd.checkpoints set expires_at = now() + step_number / 100 * interval '25 h' - interval
      '24 h' where job = {{job}}; update checkpointd.checkpoints set {} where job = {{job}} and step_number = 100"""
    for name, job, polling, change in (
        ("ftjob-a", "", "", "step_number = step_number"),  # in 1, 26 and 51 hours
        ("ftjob-b", "", "sealed_at = now(), ", "missing_since = now()"),
        ("ftjob-c", "", "", "expires_at = now() - interval '1 s'"),
        ("ftjob-d", "", "", "expires_at = now() + interval '73 h'"),
        ("ftjob-untracked", "untracked_at = now(), ", "", "step_number = step_number"),
        ("ftjob-gone", "", "is_gone = true, ", "step_number = step_number"),
    ):
        await add(sql, name, History("", job=job, polling=polling, more=expired.format(change)))
    await database_metrics.refresh(store, health, ["test"])
    assert 9 == _value("expiring_checkpoints")


async def test_phases_and_lag(store: Store, sql: asyncpg.Connection, health: Health) -> None:
    """Jobs are counted by phase, without untracked ones. Sealed and gone jobs do not count for the oldest lag."""
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
    await database_metrics.refresh(store, health, ["test"])
    assert {"active": 2, "sealed": 1, "gone": 1} == _phases()
    assert 100 <= (_value("oldest_lag_seconds") or 0) < 200


async def test_suspected_gap(store: Store, provider: Provider, sql: asyncpg.Connection, health: Health) -> None:
    """A suspected gap is counted until its job is sealed."""
    provider.checkpoints[JOB] = page([checkpoint(n) for n in (4, 2, 1)])
    await sync(store, provider)
    await database_metrics.refresh(store, health, ["test"])
    assert {"suspected_gap": 1} == _problems()
    await sql.execute("update checkpointd.polling set sealed_at = now()")
    await database_metrics.refresh(store, health, ["test"])
    assert {} == _problems()


@pytest.mark.parametrize("state", ["paused", "refused", "failing"])
async def test_state_of_a_source(store: Store, sql: asyncpg.Connection, state: str, health: Health) -> None:
    """The gauge of the state of a source is 1, and the gauges of the other states are 0."""
    await store.register_sources({"test": "openai"})
    await database_metrics.refresh(store, health, ["test"])
    await sql.execute("update checkpointd.sources set state = $1", state)
    await database_metrics.refresh(store, health, ["test"])
    assert {state: 1.0} == {name: v for name in database_metrics.STATES if (v := _value("source_state", state=name))}


async def test_removed_while_the_database_hangs(
    store: Store, sql: asyncpg.Connection, port: int, monkeypatch: pytest.MonkeyPatch, health: Health
) -> None:
    """While the database hangs, /metrics answers at once, has no old numbers, and shows that the database is down."""
    await track(store)
    await database_metrics.refresh(store, health, ["test"])
    assert {"active": 1} == _phases()
    monkeypatch.setattr(database_metrics, "READ_SECONDS", 2)  # less than the connection waits for a lock
    async with sql.transaction(), web.serve("127.0.0.1", port, health.problems, store, ["test"]):
        await sql.execute("savepoint open; lock checkpointd.polling in access exclusive mode")
        for attempts_left in (2, 1, 0):
            refreshing = asyncio.create_task(database_metrics.refresh(store, health, ["test"]))
            await asyncio.sleep(0)  # the task starts
            shown = (await get(port, "/metrics"))[1]
            if not refreshing.done():
                break
            # A machine that stands still may take longer for the scrape than the refresh waits: try again.
            assert attempts_left, "/metrics waited for the database"
            await sql.execute("rollback to savepoint open")
            await database_metrics.refresh(store, health, ["test"])
            await sql.execute("lock checkpointd.polling in access exclusive mode")
        assert 'checkpointd_tracked_jobs{phase="active",source="test"} 1.0' in shown
        await refreshing
        shown = (await get(port, "/metrics"))[1]
        assert "checkpointd_database_up 0.0" in shown
        assert [] == re.findall(r"^checkpointd_\w+_(?:jobs|seconds|state)\{.*source=.*", shown, flags=re.MULTILINE)
        assert (
            503,
            "database: counting failed: no response in time: check that the server runs and its address is right\n",
        ) == await get(port, "/readyz")
    await database_metrics.refresh(store, health, ["test"])
    assert {"active": 1} == _phases()
    assert [] == health.problems()


async def test_a_tick_counts_while_the_source_pauses(store: Store, provider: Provider) -> None:
    """A tick sets its timestamp even if the source pauses and nothing can be claimed."""
    metrics.LAST_TICK.set(0)
    time = asyncio.get_running_loop().time()
    async with polling_one(store, provider) as (poller, source, _):
        source.attribution.record_poll(1, Failure(ErrorClass.THROTTLED, ""), time, has_pages=False)
        assert 0 == await poller.tick()
    assert 0 < (metrics.REGISTRY.get_sample_value("checkpointd_last_tick_timestamp_seconds") or 0)


async def _assert_reports(port: int, status: int, pattern: str, **values: float) -> None:
    """Assert the answer of /readyz and some values of /metrics. Neither may ever contain the password."""
    expected = {f"checkpointd_{name} {value:.1f}" for name, value in values.items()}
    (found, problems), (_, shown) = await get(port, "/readyz"), await get(port, "/metrics")
    if "canary" in problems + shown:
        pytest.fail("the password was shown")  # ends the test at once, as an AssertionError would not
    assert status == found, problems
    assert re.search(pattern, problems), problems
    assert set() == expected - set(shown.splitlines())


@pytest.mark.slow
async def test_a_daemon_whose_database_goes_away(provider: Provider, tmp_path: Path) -> None:
    """While its database is away, a daemon lives, and /readyz and /metrics show the problem without secrets."""
    database = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    url = (await database.start_or_connect()).replace("://postgres@", "://postgres:canary-password@")
    assert "canary-password" in url
    await database.stop()
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
    provider.checkpoints[JOB] = page([checkpoint(1)])

    async def wait_until_it_reports(status: int, pattern: str, **values: float) -> None:
        await eventually(partial(_assert_reports, port, status, pattern, **values))
        assert (200, "ok\n") == await get(port, "/livez")

    async with running("run", env=env) as daemon:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
        await wait_until_it_reports(503, "database: ", ready=0, database_up=0, last_tick_timestamp_seconds=0)
        await database.start_or_connect()
        await wait_until_it_reports(503, "run `checkpointd migrate`", ready=0, database_up=1)
        await checkpointd("migrate", env=env)
        await wait_until_it_reports(200, "ok", ready=1, database_up=1)
        await database.stop()
        # Work that fails for the same reason is reported together.
        await wait_until_it_reports(503, r"database: .*\bclaim\b.* failed: ", ready=0, database_up=0)
        await database.start_or_connect()
        await wait_until_it_reports(200, "ok", ready=1, database_up=1)
    await database.stop()
