"""Discovery tracks a bounded number of new jobs per day, whatever the list shows, and reports what it leaves out."""

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import asyncpg
from aiohttp import web
from structlog.testing import capture_logs

from checkpointd.domain.job_filter import JobFilter
from checkpointd.domain.job_list import NEW_JOB_DAYS
from checkpointd.polling.job_list import JobList
from checkpointd.postgres import job_lists
from checkpointd.postgres.connection import connect
from checkpointd.postgres.job_lists import Discovered, JobListLease
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from support.harness import open_source, track
from support.logins import connected
from support.provider import JOB, Provider, job, page
from support.verbs import checkpointd, environment

PER_DAY = 40
AT_ONCE = NEW_JOB_DAYS * PER_DAY
JOBS = "select count(*) from checkpointd.jobs join checkpointd.polling on job = key"
LEFT_OUT = "select jobs_left_out_at is not null from fine_tuning.sources"


async def _lease(store: Store) -> JobListLease:
    """Lease the job list of the source `test`."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    (lease,) = await job_lists.claim(store, key, 60, 30, due_or_not=True)
    return lease


def _ids(start: int, number: int) -> Sequence[str]:
    return [f"ftjob-{n}" for n in range(start, start + number)]


async def _pass_days(sql: asyncpg.Connection, days: float) -> None:
    """Move the times of the source back."""
    await sql.execute(
        """update checkpointd.sources set new_jobs_until = new_jobs_until - $1::float8 * interval '24 h',
          jobs_left_out_at = jobs_left_out_at - $1 * interval '24 h',
          job_list_attempt_at = job_list_attempt_at - $1 * interval '24 h',
          job_list_complete_from = job_list_complete_from - $1 * interval '24 h',
          job_list_complete_at = job_list_complete_at - $1 * interval '24 h'""",
        days,
    )


async def test_the_budget(store: Store, sql: asyncpg.Connection) -> None:
    """A new source can have the jobs of ten days at once, the first of the list before the others.

    Then each day brings a number. What was not used adds up to as many as at the start. Known jobs cost nothing.
    """
    lease = await _lease(store)
    assert Discovered(AT_ONCE, 7) == await job_lists.discover(store, lease, _ids(0, AT_ONCE + 7), PER_DAY)
    assert _ids(AT_ONCE - 1, 1) == [
        row["id"]
        for row in await sql.fetch("select id from fine_tuning.jobs where id = any ($1)", _ids(AT_ONCE - 1, 8))
    ]
    assert Discovered(0, 7) == await job_lists.discover(store, lease, _ids(0, AT_ONCE + 7), PER_DAY)
    for day in (1, 2):
        await _pass_days(sql, 1)
        found = await job_lists.discover(store, lease, _ids(day * 1000, PER_DAY + 30), PER_DAY)
        assert Discovered(PER_DAY, 30) == found
    await _pass_days(sql, 365)
    assert Discovered(AT_ONCE, 100) == await job_lists.discover(store, lease, _ids(9000, AT_ONCE + 100), PER_DAY)
    assert 2 * AT_ONCE + 2 * PER_DAY == await sql.fetchval(JOBS)
    assert Discovered(0, 0) == await job_lists.discover(store, lease, _ids(0, AT_ONCE), PER_DAY)


async def test_filters(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Jobs that pass the filters are tracked, also later. The others cost no budget, and are not left out."""
    listed = {f"ftjob-{n}": "queued" for n in range(30)} | {"ftjob-a": "running"}
    provider.jobs = page([job(name, status) for name, status in listed.items()])
    async with open_source(store, provider) as source:
        passing = JobFilter(status=["running", "succeeded"])
        reader = JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=1, job_filter=passing)
        await reader.tick(due_or_not=True)
        assert ["ftjob-a"] == [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs")]
        provider.jobs = page([job(name, status) for name, status in {**listed, "ftjob-7": "running"}.items()])
        await reader.tick(due_or_not=True)
        provider.jobs = page([job("ftjob-a", "failed")])
        await reader.tick(due_or_not=True)
    tracked = await sql.fetch("select id, status from fine_tuning.jobs order by id")
    assert [("ftjob-7", "running"), ("ftjob-a", "failed")] == [tuple(row) for row in tracked]
    assert not await sql.fetchval(LEFT_OUT)


async def test_replicas_share_the_budget(url: str, store: Store, sql: asyncpg.Connection) -> None:
    """The count is in the database: no daemon has a budget of its own. A reading that lost its lease tracks nothing."""
    lease = await _lease(store)
    async with open_store(lambda: connect(url)) as other:
        pages = [(store, 0), (other, 100), (store, 200), (other, 300), (store, 400), (other, 500)]
        found = await asyncio.gather(*(job_lists.discover(at, lease, _ids(n, 100), PER_DAY) for at, n in pages))
        assert (AT_ONCE, 200) == (sum(part.new for part in found), sum(part.left_out for part in found))
        await job_lists.finish(store, lease, 30, whole=True, error=None)
        await _pass_days(sql, 1)
        assert Discovered(0, 0) == await job_lists.discover(store, lease, _ids(600, 100), PER_DAY)
        lease = await _lease(other)
        assert Discovered(PER_DAY, 60) == await job_lists.discover(other, lease, _ids(600, 100), PER_DAY)


async def test_jobs_that_are_named_are_not_bounded(store: Store, sql: asyncpg.Connection) -> None:
    """Jobs that a person tracks cost no budget, and need none."""
    lease = await _lease(store)
    await job_lists.discover(store, lease, _ids(0, AT_ONCE + 1), PER_DAY)
    await track(store, *_ids(5000, AT_ONCE))
    await sql.execute("select fine_tuning.track('ftjob-named', 'test')")
    assert 2 * AT_ONCE + 1 == await sql.fetchval(JOBS)


async def test_many_jobs_of_an_open_transaction(url: str, store: Store) -> None:
    """A page of jobs that an operator tracks in an open transaction takes a millisecond for each, and no time limit."""
    lease = await _lease(store)
    async with connected(url, "in role checkpointd_operator") as operator, operator.transaction():
        await operator.execute("select fine_tuning.track('ftjob-' || n) from generate_series(0, 999) as n")
        await operator.execute("set local idle_in_transaction_session_timeout = 0")
        assert Discovered(1, 0) == await job_lists.discover(store, lease, _ids(0, 1001), 10_000)


async def test_a_clock_that_was_ahead(store: Store, sql: asyncpg.Connection) -> None:
    """If the clock was ahead, the budget is empty at worst, and grows from now on. What was left out is no report."""
    lease = await _lease(store)
    await sql.execute(
        """update checkpointd.sources set new_jobs_until = now() + interval '1 year',
          jobs_left_out_at = now() + interval '1 year'"""
    )
    assert not await sql.fetchval(LEFT_OUT)
    assert Discovered(0, 9) == await job_lists.discover(store, lease, _ids(0, 9), PER_DAY)
    assert await sql.fetchval(LEFT_OUT)
    await _pass_days(sql, 1)
    assert Discovered(9, 0) == await job_lists.discover(store, lease, _ids(0, 9), PER_DAY)


async def test_a_list_that_invents_jobs(
    url: str, store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A job list with new ids at each request fills no table. `status` and `check` report it, until it has stopped."""
    numbers, requests = count(), count(1)

    async def invent(_: web.Request) -> web.Response:
        return page([job(f"invented-{next(numbers)}") for _ in range(100)], has_more=next(requests) % 5 != 0)

    config = tmp_path / "checkpointd.toml"
    config.write_text(f"[[sources]]\nname = 'test'\nbase_url = '{provider.url}'\napi_key = 'THE_KEY'\n")
    env = environment(tmp_path, url, CHECKPOINTD_CONFIG=str(config), THE_KEY="any-key-0123456789")
    provider.jobs = invent
    async with open_source(store, provider) as source:
        reader = JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=PER_DAY)
        with capture_logs() as lines:
            for _ in range(3):
                await reader.tick(due_or_not=True)
        assert len(provider.requests) * 100 > AT_ONCE
        assert ["job_list.jobs_left_out"] == [line["event"] for line in lines if "left_out" in line["event"]]
        assert AT_ONCE <= await sql.fetchval(JOBS) <= AT_ONCE + 1
        assert "new jobs are left out" in (await checkpointd("status", env=env)).out
        checked = (await checkpointd("check", env=env)).out
        assert "warn  new jobs of test: the job list has more new jobs than the 10,000 per day" in checked
        provider.jobs = page([job(JOB)])
        await _pass_days(sql, 1)
        await reader.tick(due_or_not=True)
        assert await sql.fetchval("select exists (select from fine_tuning.jobs where id = $1)", JOB)
        assert not await sql.fetchval(LEFT_OUT)
