"""Sources: refused keys, pauses and rate limits stop the polls of a source, and none of them is blamed on a job."""

import asyncio
import time
from collections import Counter

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.attribution import SUSPICION_SECONDS, SourceState
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.polling.login import renew_login
from checkpointd.polling.source import Claim, Renewal
from checkpointd.postgres.store import Capacity, ClaimOrder, Store
from checkpointd.telemetry.health import Health
from support.harness import open_source, polling_one, sync, tick, track, until
from support.provider import JOB, Provider, body, checkpoint, error, held, page, paged

STATE = "select state from fine_tuning.sources"


async def test_refused_key_releases_its_jobs(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 401 silences this process, is blamed on no job, and releases the leases: another key polls the jobs at once."""
    jobs = [f"ftjob-{n}" for n in range(20)]
    for name in jobs:
        provider.checkpoints[name] = error(401, "invalid_api_key", "Incorrect API key provided: sk-abc***xyz")
    await track(store, *jobs)
    async with polling_one(store, provider) as (poller, source, _):
        await tick(poller)
        assert 0 == source.capacity(asyncio.get_running_loop().time()).slots
    rows = await sql.fetch(
        "select lease_expires_at, failures, last_error, next_poll_at <= now() as due from checkpointd.polling"
    )
    assert {(None, 0, None, True)} == {tuple(row) for row in rows}
    assert "refused" == await sql.fetchval(STATE)
    assert 8 >= len(provider.requests)
    for name in jobs:
        provider.checkpoints[name] = page([])
    await sync(store, provider, *jobs)
    assert "ok" == await sql.fetchval(STATE)


async def test_slow_polls_do_not_hinder_a_test(store: Store, provider: Provider) -> None:
    """After a silence a source is tested although many polls run, if these are overtaken."""
    async with open_source(store, provider) as source:
        now = asyncio.get_running_loop().time()
        for slow in range(1, 8):
            source.slots.start(slow, now)
        read = source.slots.start(8, now)
        source.slots.end(read, now + 0.01, was_read=True)
        source.slots.finish(read)
        source.attribution.record_poll(8, None, now + 0.01, has_pages=True)
        refused = Failure(ErrorClass.REFUSED, "HTTP 401")
        source.attribution.record_poll(9, refused, now + 1, has_pages=False)
        assert [0, 1] == [source.capacity(now + seconds).slots for seconds in (1.1, 1 + SUSPICION_SECONDS)]


async def test_refusals_of_an_old_key(store: Store, provider: Provider) -> None:
    """A refusal that arrives after a new key is in use concerns the old key, and silences nothing."""
    refused, reached, go_on = held(error(401, "invalid_api_key"))
    provider.checkpoints[JOB] = error(401, "invalid_api_key")
    provider.checkpoints["ftjob-2"] = refused
    await track(store, JOB, "ftjob-2")
    async with polling_one(store, provider) as (poller, source, _), open_source(store, provider, key="new") as renewed:

        async def renew() -> Renewal:
            return Renewal(renewed.client)

        source.renew = renew
        await renew_login(store, Health(), source)
        assert renewed.client is not source.client, "no key was refused"
        await poller.tick()
        await reached.wait()
        await until(lambda: source.attribution.state == SourceState.REFUSED)
        await renew_login(store, Health(), source)
        go_on.set()
        await poller.idle()
        assert (False, False) == (source.attribution.is_silent(asyncio.get_running_loop().time()), source.login_refused)
        provider.checkpoints = {JOB: page([]), "ftjob-2": page([])}
        await poller.queue.saved()
        await tick(poller)
        await tick(poller)
    assert {"Bearer new"} == {request.headers["Authorization"] for request in provider.requests[2:]}
    assert source.attribution.state is SourceState.OK


async def test_key_that_lost_its_rights(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If a key was accepted and then every job answers 403, the source is refused, and the jobs are released."""
    jobs = [f"ftjob-{n}" for n in range(5)]
    for name in jobs:
        provider.checkpoints[name] = page([])
    await sync(store, provider, *jobs)
    for name in jobs:
        provider.checkpoints[name] = error(403, "unsupported_country_region_territory")
    await sql.execute("update checkpointd.polling set next_poll_at = now()")
    async with polling_one(store, provider) as (poller, source, _):
        await tick(poller)
        assert source.attribution.state == SourceState.REFUSED
    assert "refused" == await sql.fetchval(STATE)
    assert 1 >= await sql.fetchval("select count(*) from checkpointd.polling where failures > 0")


async def test_forbidden_job_silences_no_other(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the key was accepted for one job, a 403 for another one concerns that job alone."""
    await track(store, JOB, "ftjob-2")
    provider.checkpoints[JOB] = page([])
    provider.checkpoints["ftjob-2"] = body("<html>blocked", "text/html", 403)
    async with polling_one(store, provider) as (poller, source, _):
        await poller.poll_named(await store.find_jobs([JOB]))
        await poller.poll_named(await store.find_jobs(["ftjob-2"]))
        assert source.attribution.state == SourceState.OK
    failures = await sql.fetch("select consecutive_failures from fine_tuning.freshness order by 1")
    assert [0, 1] == [row["consecutive_failures"] for row in failures]


async def test_throttling_pauses_the_source(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 429 pauses the source for every daemon for the requested time, and is blamed on no job."""
    await track(store, JOB, "ftjob-2")
    provider.checkpoints[JOB] = provider.checkpoints["ftjob-2"] = error(429, "rate_limit_exceeded", retry_after="120")
    async with polling_one(store, provider) as (poller, _, _):
        await tick(poller)
    row = await sql.fetchrow("select state, resume_at - since as pause from fine_tuning.sources")
    assert row is not None
    assert "paused" == row["state"]
    assert 120 <= row["pause"].total_seconds() < 150  # from the first 429 until two minutes after the last one
    assert [0, 0] == [row["failures"] for row in await sql.fetch("select failures from checkpointd.polling")]
    async with polling_one(store, provider) as (poller, _, _):
        assert 0 == await poller.tick()


async def test_late_successes_end_no_pause(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """`poll_named` ends at once when the source pauses, and reports it for each job, even if requests still succeed."""
    jobs = [f"ftjob-{n}" for n in range(40)]
    for name in jobs:
        provider.checkpoints[name] = page([])
    provider.checkpoints[jobs[0]] = error(429, "rate_limit_exceeded", retry_after="120")
    await track(store, *jobs)
    started = asyncio.get_running_loop().time()
    async with polling_one(store, provider) as (poller, source, outcomes):
        left = await poller.poll_named(await store.find_jobs(jobs))
        assert source.attribution.failure is not None
    assert asyncio.get_running_loop().time() - started < 30
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    assert {"throttled"} == {failure.error_class for failure in failures}
    assert 40 == len(left) + len(outcomes)
    assert "paused" == await sql.fetchval(STATE)


async def test_pause_is_not_shortened(store: Store, sql: asyncpg.Connection) -> None:
    """A shorter pause does not end a longer one early; a refusal after a pause is stored."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 900, "long")
    await store.pause_source(key, 1, "short")
    assert await sql.fetchval("select resume_at > now() + interval '800 s' from fine_tuning.sources")
    await sql.execute("update checkpointd.sources set resume_at = now() - interval '1 s'")
    await store.fail_source(key, SourceState.REFUSED, "no")
    assert "refused" == await sql.fetchval(STATE)


async def test_recovery_wakes_failing_jobs(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """When a failing source is ok again, its failing jobs are due within a minute, except those that are gone."""
    await track(store, JOB, "ftjob-failing", "ftjob-gone", "ftjob-fine")
    provider.checkpoints[JOB] = page([])
    await sql.execute("""
        update checkpointd.sources set state = 'failing', last_error = 'HTTP 502';
        update checkpointd.polling set next_poll_at = now() + interval '1 h', failures = (id <> 'ftjob-fine')::int,
          is_gone = id = 'ftjob-gone', last_attempt_at = now()
        from checkpointd.jobs where key = job and id <> 'ftjob-abc123'""")
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await tick(poller)
    assert "ok" == await sql.fetchval(STATE)
    soon = """
        select id, next_poll_at < now() + interval '1 min' from checkpointd.polling
        join checkpointd.jobs on key = job"""
    due = {"ftjob-failing": True, "ftjob-gone": False, "ftjob-fine": False}
    assert due == dict(map(tuple, await sql.fetch(f"{soon} where id <> $1", JOB)))


async def test_key_refused_during_an_outage(store: Store, sql: asyncpg.Connection) -> None:
    """A source that fails in another way has the new state and reason, but the same failure does not restart it."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.fail_source(key, SourceState.FAILING, "HTTP 502")
    since = await sql.fetchval("select since from fine_tuning.sources")
    await store.fail_source(key, SourceState.FAILING, "HTTP 503")
    row = await sql.fetchrow("select state, since, last_error from fine_tuning.sources")
    assert ("failing", since, "HTTP 503") == tuple(row or ())
    await store.fail_source(key, SourceState.REFUSED, "HTTP 401")
    row = await sql.fetchrow("select state, since > $1, last_error from fine_tuning.sources", since)
    assert ("refused", True, "HTTP 401") == tuple(row or ())
    await store.pause_source(key, 60, "HTTP 429")
    await store.fail_source(key, SourceState.FAILING, "HTTP 502")
    assert "paused" == await sql.fetchval(STATE)


@pytest.mark.slow
async def test_suspended_process_learns_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Requests that fail because this process stood still until its leases had expired do not concern the source."""
    jobs = [f"ftjob-{n}" for n in range(5)]
    await track(store, *jobs)

    async def stand_still(_: web.Request) -> web.StreamResponse:
        time.sleep(1.1)  # noqa: ASYNC251  # blocks the daemon, which runs in this process
        return error(500)

    provider.checkpoints = dict.fromkeys(jobs, stand_still)
    async with polling_one(store, provider, lease=1) as (poller, source, _):
        assert 5 == await tick(poller)
        assert source.attribution.state == SourceState.OK
    assert "ok" == await sql.fetchval(STATE)


async def test_failing_jobs_get_a_quarter_of_the_slots(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """Of eight slots, jobs that fail get two, even if they have been due for longer than the others."""
    failing, healthy = [f"ftjob-f{n}" for n in range(20)], [f"ftjob-h{n}" for n in range(20)]
    await track(store, *failing, *healthy)
    await sql.execute("""
        update checkpointd.polling p set failures = 3, next_poll_at = now() - interval '1 day'
        from checkpointd.jobs j where j.key = p.job and j.id like 'ftjob-f%'""")
    async with polling_one(store, provider) as (poller, _, _):
        assert 8 == await poller.tick()
        rows = await sql.fetch(
            "select failures > 0, count(*) from checkpointd.polling where lease_expires_at > now() group by 1"
        )
        assert {True: 2, False: 6} == dict(map(tuple, rows))


# Rate limits


async def test_rate_limit_of_claims(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """With a rate limit of one request in ten seconds, a claim takes one job, and the next claim takes none."""
    jobs = [f"ftjob-{n}" for n in range(5)]
    await track(store, *jobs)
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 1 == await poller.tick()
        assert 0 == await poller.tick()
    await sql.execute("update checkpointd.sources set budget_at = budget_at - interval '10 s'")
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 1 == await poller.tick()


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize(("request_interval", "permitted"), [(None, 1000), (0.001, 1000), (0.5, 2)])
async def test_order_of_claims(
    store: Store, provider: Provider, concurrency: int, request_interval: float | None, permitted: int
) -> None:
    """If the slots are too few for the jobs that are due, half of these are chosen at random.

    If the rate limit permits too few, the longest overdue come first, also if a claim of these few fills the slots.
    """
    await track(store)
    async with open_source(store, provider, request_interval=request_interval) as source:
        source.concurrency = concurrency
        leases = await store.claim_due_jobs({source.key: Capacity(1, 1, None)}, 60)
        orders = Counter[ClaimOrder]()
        for second in range(60):
            left = permitted
            for n in range(20):  # its polls end at once, and the next claim follows until nothing more is permitted
                now = second + n / 20
                capacity = source.capacity(now)
                count = min(capacity.slots, left)
                left -= count
                orders[capacity.claim_order] += count
                source.record_claim(count * [Claim(leases[0], now, now, now)], capacity, now)
                if not source.has_more:
                    break
    if permitted == 2:
        assert {ClaimOrder.OVERDUE} == {order for order, count in orders.items() if count}
    else:
        assert orders[ClaimOrder.RANDOM] > 0.35 * orders.total()


async def test_rate_limit_of_further_pages(store: Store, provider: Provider) -> None:
    """With a rate limit of ten requests per second, two lists of sixteen pages are read at that rate."""
    await track(store, "ftjob-1", "ftjob-2")
    for name in ("ftjob-1", "ftjob-2"):
        provider.checkpoints[name] = paged([checkpoint(n, name) for n in range(16, 0, -1)])
    started = time.monotonic()
    async with polling_one(store, provider, request_interval=0.1, page_size=1) as (poller, _, outcomes):
        assert 2 == await tick(poller)
    # Ten requests are allowed at once, the other 22 one after the other.
    assert 2.1 < time.monotonic() - started < 30
    assert [16, 16] == [outcomes[name].new for name in ("ftjob-1", "ftjob-2")]


async def test_long_list_overdraws_the_rate_limit(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A list with more pages than the rate limit allows during a lease is read to its end; the limit is overdrawn."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(20, 0, -1)])
    await track(store)
    async with polling_one(store, provider, lease=8, page_size=1, request_interval=6) as (poller, _, _):
        await poller.poll_named(await store.find_jobs([JOB]))
    assert 20 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert await sql.fetchval("select last_complete_at is not null from fine_tuning.freshness")
    assert await sql.fetchval("select budget_at > now() + interval '90 s' from checkpointd.sources")


async def test_overdrawn_rate_limit_stops_claims(store: Store, provider: Provider) -> None:
    """A listing that overdraws the rate limit is complete; then no job is claimed until the overdraft is made up."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(4, 0, -1)])
    await track(store)
    async with polling_one(store, provider, request_interval=10, lease=2, page_size=1) as (poller, _, outcomes):
        assert 1 == await tick(poller)
    assert (True, 4) == (outcomes[JOB].result.complete, outcomes[JOB].new)
    await track(store, "ftjob-2")
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 0 == await tick(poller)
