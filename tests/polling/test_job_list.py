"""The job list is leased like a job: a stop releases it, and a refused key of one daemon does not block another one."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.polling.job_list import JobList
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import store as store_module
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from service.faults.proxy import Proxy
from support.harness import open_source, polling_one, read_job_list, row_versions, sync, tick, track, until_true
from support.logins import connected
from support.provider import JOB, Provider, body, error, held, job, page, paged

IS_LEASED = "select job_list_lease_expires_at is not null from checkpointd.sources"
GAP = "select extract(epoch from job_list_due_at - job_list_attempt_at)::float from checkpointd.sources"


def _job_list(
    store: Store, source: ActiveSource, health: Health | None = None, *, gap: float = 30, max_new_jobs: int = 0
) -> JobList:
    return JobList(store, source, health or Health(), gap=gap, lease_seconds=60, max_new_jobs=max_new_jobs)


@pytest.fixture
def set_undo_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets how long cancelled work may take to finish and be undone."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(store_module, "UNDO_SECONDS", seconds)

    return set_to


async def test_cancelled_claim_is_undone(
    url: str, provider: Provider, sql: asyncpg.Connection, set_undo_seconds: Callable[[float], None]
) -> None:
    """A stop between the claim of the job list and its answer leaves no lease. The list is due again after its gap."""
    provider.jobs = page([])
    set_undo_seconds(30)
    async with (
        Proxy(url) as proxy,
        open_store(lambda: connect(proxy.url)) as store,
        open_source(store, provider) as source,
    ):
        job_list = _job_list(store, source)
        await job_list.tick()  # connects and prepares the statements, without delay
        provider.requests.clear()
        proxy.latency = lambda _: 0.5
        reading = asyncio.ensure_future(job_list.tick(due_or_not=True))
        await until_true(sql, IS_LEASED)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert not await sql.fetchval(IS_LEASED)
    assert 30 == await sql.fetchval(GAP)
    assert [] == provider.requests


async def test_cancelled_while_its_end_is_saved(
    url: str, provider: Provider, sql: asyncpg.Connection, set_undo_seconds: Callable[[float], None]
) -> None:
    """A stop while the end of a reading is being saved does not interrupt that statement: no lease is left."""
    set_undo_seconds(30)
    finishing = asyncio.Event()

    def latency(chunk: bytes) -> float:
        if b"job_list_complete_at = case" in chunk:
            finishing.set()
        return 0.05

    async with (
        Proxy(url) as proxy,
        open_store(lambda: connect(proxy.url)) as store,
        open_source(store, provider) as source,
    ):
        proxy.latency = latency
        reading = asyncio.ensure_future(_job_list(store, source).tick())
        await asyncio.wait_for(finishing.wait(), 60)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert not await sql.fetchval(IS_LEASED)


async def test_slow_save_of_its_end_is_no_failure(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    set_undo_seconds: Callable[[float], None],
    health: Health,
) -> None:
    """A reading whose end waits for a lock, longer than cancelled work may take to be undone, still succeeds."""
    set_undo_seconds(0.1)
    provider.jobs, reached, go_on = held(page([]))
    async with open_source(store, provider) as source:
        reading = asyncio.ensure_future(_job_list(store, source, health).tick())
        await reached.wait()
        async with sql.transaction():
            await sql.execute("select from checkpointd.sources for update")
            go_on.set()
            await asyncio.sleep(0.5)  # longer than UNDO_SECONDS, and shorter than the lock timeout of 3 s
        await reading
    assert [] == health.problems()
    assert not await sql.fetchval(IS_LEASED)


async def test_reading_that_lost_its_lease_writes_nothing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A daemon that is suspended before it saves a page writes nothing of it if another daemon claimed the list."""
    await track(store, JOB)
    provider.jobs, reached, go_on = held(page([job(status="running")]))
    async with open_source(store, provider) as source:
        late = asyncio.ensure_future(_job_list(store, source).tick())
        await reached.wait()
        await sql.execute("update checkpointd.sources set job_list_lease_token = job_list_lease_token + 1")
        go_on.set()
        await late
    assert await sql.fetchval("select status is null from fine_tuning.jobs")
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.changes")


async def test_refused_key_leaves_the_list_to_other_daemons(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A daemon whose key may not read the job list does not try again at once; a daemon with another key reads it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        is_bad = request.headers["Authorization"] == "Bearer bad-key"
        return error(401, "invalid_api_key") if is_bad else page([job(status="running")])

    provider.jobs = answer
    await track(store, JOB)
    async with open_source(store, provider, key="bad-key") as bad, open_source(store, provider) as good:
        list_of_bad = _job_list(store, bad)
        await list_of_bad.tick()
        await list_of_bad.tick()
        assert 1 == len(provider.requests)
        await _job_list(store, good).tick()
    assert 2 == len(provider.requests)
    assert "running" == await sql.fetchval("select status from fine_tuning.jobs")


async def test_reading_the_list_ends_a_pause(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A source whose pause is over, and which has no job to poll, is `ok` again when its job list was read."""
    provider.jobs = page([])
    async with open_source(store, provider) as source:
        await store.pause_source(source.key, 60, "too many requests")
        await sql.execute("update checkpointd.sources set resume_at = now() - interval '1 s'")
        await _job_list(store, source).tick()
    assert "ok" == await sql.fetchval("select state from fine_tuning.sources")


async def test_job_list_is_read_beside_polls_that_use_up_the_rate_limit(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """The list waits for its turn behind requests that were charged ahead, unless that takes half of its lease."""
    provider.jobs = page([])
    charge = "update checkpointd.sources set charged_at = now(), budget_at = now() + $1::float8 * interval '1 s'"
    async with open_source(store, provider, request_interval=0.01) as source:
        job_list = _job_list(store, source)
        await sql.execute(charge, 40.0)
        assert await job_list.tick() is None
        await sql.execute(charge, 0.2)
        assert await job_list.tick()
    assert await sql.fetchval("select clock_timestamp() > budget_at - interval '0.02 s' from checkpointd.sources")


async def test_half_of_the_rate_limit_is_left_to_polls(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """With a rate limit, the next reading of the list is due only after the limit allows as many requests for polls."""
    provider.jobs = paged([job(f"ftjob-{n}") for n in range(6)])
    await track(store)
    async with open_source(store, provider, page_size=2, request_interval=0.1) as source:
        await _job_list(store, source, gap=0.05).tick()
        assert 1 == len(provider.requests)
        assert 0.2 == pytest.approx(await sql.fetchval(GAP))
        await _job_list(store, source, gap=0.05).tick(due_or_not=True)  # the first page again, and the second one
        assert 3 == len(provider.requests)
        assert 0.4 == pytest.approx(await sql.fetchval(GAP))
    async with open_source(store, provider, page_size=2) as source:
        await _job_list(store, source, gap=0.05).tick(due_or_not=True)
        assert 0.05 == pytest.approx(await sql.fetchval(GAP))


async def test_locked_job_delays_no_other(
    store: Store, provider: Provider, sql: asyncpg.Connection, health: Health
) -> None:
    """A job whose row is locked gets its status with the next reading; the other jobs get theirs at once."""
    provider.jobs = page([job(name, status="succeeded") for name in (JOB, "ftjob-2")])
    await track(store, JOB, "ftjob-2")
    statuses = "select id, status from fine_tuning.jobs order by id"
    lock = """
        select from checkpointd.polling p join checkpointd.jobs j on j.key = p.job
        where j.id = 'ftjob-2' for update of p"""
    async with open_source(store, provider) as source:
        async with sql.transaction():
            await sql.execute(lock)
            await _job_list(store, source, health).tick()
            assert [("ftjob-2", None), (JOB, "succeeded")] == [tuple(row) for row in await sql.fetch(statuses)]
        assert [] == health.problems()
        await _job_list(store, source, health).tick(due_or_not=True)
    assert [("ftjob-2", "succeeded"), (JOB, "succeeded")] == [tuple(row) for row in await sql.fetch(statuses)]
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'status'")


@pytest.mark.parametrize(
    "call", ["track('ftjob-new')", "track('ftjob-old')", "untrack('ftjob-2')", "resync('ftjob-2')"]
)
async def test_an_operators_open_transaction_delays_no_other_job(
    url: str, store: Store, provider: Provider, sql: asyncpg.Connection, health: Health, call: str
) -> None:
    """An operator who keeps a transaction open delays only the job that it chose, and not the rest of the page."""
    names = ("ftjob-1", "ftjob-2", "ftjob-3", "ftjob-new", "ftjob-old", "ftjob-zzz")
    await track(store, "ftjob-1", "ftjob-2", "ftjob-3", "ftjob-old")
    await store.untrack(await store.find_jobs(["ftjob-old"]))
    async with open_source(store, provider) as source:
        provider.jobs = page([job(name, status="running", model="a") for name in names[:3]])
        await _job_list(store, source, health).tick()
        provider.jobs = page([job(name, status="running", model="b") for name in names])
        async with connected(url, "in role checkpointd_operator") as operator, operator.transaction():
            await operator.execute(f"select fine_tuning.{call}")
            await operator.execute("set local idle_in_transaction_session_timeout = 0")
            await _job_list(store, source, health, max_new_jobs=10_000).tick(due_or_not=True)
            saved = await sql.fetch("select id from fine_tuning.jobs where model = 'b'")
            assert {"ftjob-1", "ftjob-3", "ftjob-zzz"} <= {row["id"] for row in saved}
            assert [] == health.problems()
        await _job_list(store, source, health, max_new_jobs=10_000).tick(due_or_not=True)
    active = await sql.fetch("select id from fine_tuning.jobs where model = 'b' and phase = 'active'")
    chosen = {"ftjob-old"} if "old" in call else set()
    stopped = {"ftjob-2"} if "untrack" in call else set()
    assert ({*names} - {"ftjob-old"} | chosen) - stopped == {row["id"] for row in active}


async def test_reading_the_list_does_not_end_a_refusal(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """If polls refused this daemon's key, the source stays `refused`, even if the key may read the job list."""
    provider.jobs = page([])
    provider.checkpoints[JOB] = error(401, "invalid_api_key")
    await track(store)
    async with polling_one(store, provider) as (poller, source, _):
        await tick(poller)
        await poller.queue.saved()
        await _job_list(store, source).tick(due_or_not=True)
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")


async def test_statuses_from_the_job_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The job list fills in tracked jobs only. A changed status is recorded as a change, and makes its job due."""
    is_due = "select next_poll_at <= now() from checkpointd.polling"
    await track(store)
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    assert not await sql.fetchval(is_due)
    for status in ("queued", "queued", "succeeded"):
        extra: dict[str, Any] = (
            {"fine_tuned_model": "ft:x", "finished_at": 1_721_765_000} if status == "succeeded" else {}
        )
        provider.jobs = page([job(status=status, **extra), job("ftjob-other")])
        await read_job_list(store, provider)
    changes = await sql.fetch("select old_value, new_value from fine_tuning.changes where kind = 'status' order by seq")
    assert [(None, "queued"), ("queued", "succeeded")] == [tuple(row) for row in changes]
    row = await sql.fetchrow(
        "select id, status, fine_tuned_model, phase, hyperparameters ->> 'n_epochs' as n from fine_tuning.jobs"
    )
    assert (JOB, "succeeded", "ft:x", "settling", "3") == tuple(row or ())
    assert await sql.fetchval(is_due)


async def test_record_with_the_same_content_writes_nothing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A job record with its members in another order, in another format, writes no row; each new value is stored."""
    await track(store)
    record = job(method={"type": "supervised", "seed": 7}, seed=1)
    provider.jobs = page([record])
    await read_job_list(store, provider)
    before = await row_versions(sql)
    shuffled = dict(reversed({**record, "method": {"seed": 7.0, "type": "supervised"}}.items()))
    provider.jobs = body(json.dumps({"object": "list", "has_more": False, "data": [shuffled]}, indent=3))
    await read_job_list(store, provider)
    assert before == await row_versions(sql)
    for seed in (True, 2, None):
        provider.jobs = page([{**shuffled, "seed": seed}])
        await read_job_list(store, provider)
        assert seed == json.loads(await sql.fetchval("select payload ->> 'seed' from checkpointd.jobs") or "null")


async def test_sealed_job_gets_its_first_status(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that was sealed while its status was unknown is polled again when the job list reports a status."""
    await track(store)
    await sql.execute("update checkpointd.polling set sealed_at = now(), next_poll_at = 'infinity'")
    provider.jobs = page([job(status="running")])
    await read_job_list(store, provider)
    assert await sql.fetchval("select next_poll_at <= now() from checkpointd.polling")


async def test_discovery_tracks_and_never_untracks(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Discovery tracks each listed job; a job that is not listed any more stays tracked."""
    provider.jobs = page([job(f"ftjob-{n}") for n in range(3)])
    await read_job_list(store, provider, discover=True)
    provider.jobs = page([job("ftjob-9")])
    await read_job_list(store, provider, discover=True)
    active = await sql.fetch("select id from fine_tuning.jobs where phase = 'active' order by 1")
    assert ["ftjob-0", "ftjob-1", "ftjob-2", "ftjob-9"] == [row["id"] for row in active]


async def test_untracked_job_stays_untracked(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Neither discovery nor a claim, a resync or a new status tracks a job again that a person untracked."""
    provider.jobs = page([job()])
    await read_job_list(store, provider, discover=True)
    jobs = await store.find_jobs([JOB])
    await store.untrack(jobs)
    provider.jobs = page([job(status="succeeded")])
    await read_job_list(store, provider, discover=True)
    await store.resync(jobs)
    assert [] == await store.claim_named_jobs(jobs, {}, 60)
    row = await sql.fetchrow("select next_poll_at = 'infinity', phase from checkpointd.polling, fine_tuning.jobs")
    assert (True, "untracked") == tuple(row or ())


async def test_unreadable_job_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the job list cannot be read, the view sources has the reason, and no job is requested by itself."""
    await track(store)
    await read_job_list(store, provider)
    assert 1 == len(provider.requests)
    assert "HTTP 404 unknown_url no" == await sql.fetchval("select job_list_error from fine_tuning.sources")
