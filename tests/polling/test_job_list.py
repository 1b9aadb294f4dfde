"""The job list is leased like a poll: given back at a stop, and no daemon's bad key keeps another one from it."""

import asyncio
from collections.abc import Callable

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
from support.harness import polling_one, serving, tick, track
from support.provider import JOB, Provider, error, held, job, page, paged


def _job_list(store: Store, source: ActiveSource, health: Health | None = None) -> JobList:
    return JobList(store, source, health or Health(), gap=30, lease_seconds=60, discover=False)


@pytest.fixture
def rescue(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets how long work that is cut short may take to end in order."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(store_module, "UNDO_SECONDS", seconds)

    return set_to


async def test_cut_short_in_its_claim_it_leaves_no_lease(
    url: str, provider: Provider, sql: asyncpg.Connection, rescue: Callable[[float], None]
) -> None:
    """A stop between the claim of the job list and its answer leaves the list free for others."""
    rescue(30)
    held = "select job_list_lease_expires_at is not null from checkpointd.sources"
    async with (
        Proxy(url) as proxy,
        open_store(lambda: connect(proxy.url)) as store,
        serving(store, provider) as service,
    ):
        discovery = _job_list(store, service)
        await discovery.tick()  # connects, and prepares the statements, without delay
        provider.requests.clear()
        proxy.latency = lambda _: 0.5
        reading = asyncio.ensure_future(discovery.tick(due_or_not=True))
        async with asyncio.timeout(60):
            while not await sql.fetchval(held):  # noqa: ASYNC110  # another process writes, and gives no event
                await asyncio.sleep(0.005)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert not await sql.fetchval(held)
    assert [] == provider.requests


async def test_cut_short_at_its_end_it_leaves_no_lease(
    url: str, provider: Provider, sql: asyncpg.Connection, rescue: Callable[[float], None]
) -> None:
    """A stop while the end of a reading is being noted lets it be noted."""
    rescue(30)
    noting = asyncio.Event()

    def latency(chunk: bytes) -> float:
        if b"job_list_complete_at = case" in chunk:
            noting.set()
        return 0.05

    async with (
        Proxy(url) as proxy,
        open_store(lambda: connect(proxy.url)) as store,
        serving(store, provider) as service,
    ):
        proxy.latency = latency
        reading = asyncio.ensure_future(_job_list(store, service).tick())
        await asyncio.wait_for(noting.wait(), 60)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert not await sql.fetchval("select job_list_lease_expires_at is not null from checkpointd.sources")


async def test_an_end_that_is_noted_slowly_is_no_failure(
    store: Store, provider: Provider, sql: asyncpg.Connection, rescue: Callable[[float], None], health: Health
) -> None:
    """A reading whose end waits for a lock longer than a stop would let it is a success all the same."""
    rescue(0.1)  # so that the lock is held for much less than the three seconds that a statement waits for one
    provider.jobs, reached, go_on = held(page([]))
    async with serving(store, provider) as service:
        reading = asyncio.ensure_future(_job_list(store, service, health).tick())
        await reached.wait()
        async with sql.transaction():
            await sql.execute("select from checkpointd.sources for update")
            go_on.set()
            await asyncio.sleep(0.5)
        await reading
    assert [] == health.problems()
    assert not await sql.fetchval("select job_list_lease_expires_at is not null from checkpointd.sources")


async def test_a_late_list_writes_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon that was frozen between a page and its save writes nothing of it, once another one reads the list."""
    await track(store, JOB)
    provider.jobs, reached, go_on = held(page([job(status="running")]))
    async with serving(store, provider) as service:
        late = asyncio.ensure_future(_job_list(store, service).tick())
        await reached.wait()
        await sql.execute("update checkpointd.sources set job_list_lease_token = job_list_lease_token + 1")
        go_on.set()
        await late
    assert await sql.fetchval("select status is null from fine_tuning.jobs")
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.changes")


async def test_a_refused_key_leaves_the_list_to_others(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A daemon whose key may not read the job list stays away from it; another one reads it at once."""

    async def answer(request: web.Request) -> web.StreamResponse:
        refused = request.headers["Authorization"] == "Bearer bad-key"
        return error(401, "invalid_api_key") if refused else page([job(status="running")])

    provider.jobs = answer
    await track(store, JOB)
    async with serving(store, provider, key="bad-key") as bad, serving(store, provider) as good:
        of_bad = _job_list(store, bad)
        await of_bad.tick()
        await of_bad.tick()
        assert 1 == len(provider.requests)
        await _job_list(store, good).tick()
    assert 2 == len(provider.requests)
    assert "running" == await sql.fetchval("select status from fine_tuning.jobs")


async def test_a_list_that_is_read_ends_a_pause(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A source that was paused, and of which no job is polled any more, is ok again by its job list."""
    provider.jobs = page([])
    async with serving(store, provider) as service:
        await store.pause_source(service.key, 60, "too many requests")
        await sql.execute("update checkpointd.sources set resume_at = now() - interval '1 s'")
        await _job_list(store, service).tick()
    assert "ok" == await sql.fetchval("select state from fine_tuning.sources")


async def test_the_list_leaves_half_of_a_budget_to_the_polls(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list whose pages are all that the budget allows is due again only after as many requests for polls."""
    provider.jobs = paged([job(f"ftjob-{n}") for n in range(6)])
    await track(store)
    gap = "select extract(epoch from job_list_due_at - job_list_attempt_at)::float from checkpointd.sources"
    async with serving(store, provider, page_size=2, request_interval=0.1) as service:
        discovery = JobList(store, service, Health(), gap=0.05, lease_seconds=60, discover=False)
        await discovery.tick()
        assert 3 == len(provider.requests)
        assert 0.6 == pytest.approx(await sql.fetchval(gap))
    async with serving(store, provider, page_size=2) as service:
        await JobList(store, service, Health(), gap=0.05, lease_seconds=60, discover=False).tick(due_or_not=True)
        assert 0.05 == pytest.approx(await sql.fetchval(gap))


async def test_a_job_that_is_held_holds_up_no_other(
    store: Store, provider: Provider, sql: asyncpg.Connection, health: Health
) -> None:
    """A job whose row somebody locks gets its status with the next list; the others have theirs at once."""
    provider.jobs = page([job(name, status="succeeded") for name in (JOB, "ftjob-2")])
    await track(store, JOB, "ftjob-2")
    told = "select id, status from fine_tuning.jobs order by id"
    async with serving(store, provider) as service:
        async with sql.transaction():
            await sql.execute("select from checkpointd.polling p join checkpointd.jobs j on j.key = p.job"
                              " where j.id = 'ftjob-2' for update of p")  # fmt: skip
            await _job_list(store, service, health).tick()
            assert [("ftjob-2", None), (JOB, "succeeded")] == [tuple(row) for row in await sql.fetch(told)]
        assert [] == health.problems()
        await _job_list(store, service, health).tick(due_or_not=True)
    assert [("ftjob-2", "succeeded"), (JOB, "succeeded")] == [tuple(row) for row in await sql.fetch(told)]
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'status'")


async def test_a_list_alone_makes_no_refused_source_well(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """Where this daemon's key was refused by polls, a job list that it may read does not say that all is well."""
    provider.jobs = page([])
    provider.checkpoints[JOB] = error(401, "invalid_api_key")
    await track(store)
    async with polling_one(store, provider) as (poller, service, _):
        await tick(poller)
        await poller.queue.saved()
        await _job_list(store, service).tick(due_or_not=True)
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")
