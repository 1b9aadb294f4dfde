"""A job list of many pages: a pass over it takes several readings, and the head of the list is read meanwhile."""

import asyncio
import random
import time
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.job_list import HEAD_PAGES
from checkpointd.polling.job_list import JobList
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Capacity, Store
from checkpointd.provider.client import JOB_LIST_PAGES
from checkpointd.telemetry.health import Health
from service.faults.daemons import measure_stalls
from support.harness import open_source, track, until_true
from support.provider import JOB, Provider, error, held, job, page, paged

PASS = """
    select job_list_complete_from, job_list_complete_at, job_list_cursor, job_list_pages from checkpointd.sources"""
STATUS = "select status from fine_tuning.jobs where id = $1"
ONE_PAGE = 0.0
"""With this gap a reading begins no page after the first one of a pass."""


def _job_list(store: Store, source: ActiveSource, *, gap: float = 30, discover: bool = True) -> JobList:
    return JobList(store, source, Health(), gap=gap, lease_seconds=60, max_new_jobs=10_000 if discover else 0)


def _ended(*numbers: int) -> list[dict[str, Any]]:
    return [job(f"ftjob-{n:02}", status="succeeded") for n in numbers]


def _cursors(provider: Provider) -> list[str | None]:
    """Return the cursors of the requests since the last call."""
    found = [request.query.get("after") for request in provider.requests]
    provider.requests.clear()
    return found


async def _pass_time(sql: asyncpg.Connection, seconds: float) -> None:
    await sql.execute(
        """update checkpointd.sources set job_list_due_at = job_list_due_at - $1::float * interval '1 s',
        job_list_attempt_at = job_list_attempt_at - $1::float * interval '1 s',
        job_list_complete_at = job_list_complete_at - $1::float * interval '1 s',
        job_list_complete_from = job_list_complete_from - $1::float * interval '1 s'""",
        seconds,
    )


async def test_a_cursor_with_a_secret_is_not_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A pass goes on, even if its time is used up, until it can be resumed at an id without the key."""
    provider.jobs = paged([job(name) for name in ("ftjob-1", "ftjob-canary-key", "ftjob-2", "ftjob-3")])
    async with open_source(store, provider, page_size=1) as source:
        job_list = _job_list(store, source, gap=ONE_PAGE)
        await job_list.tick()
        await _pass_time(sql, 30)
        await job_list.tick()
    assert "ftjob-2" == await sql.fetchval("select job_list_cursor from checkpointd.sources")


async def test_each_daemon_continues_the_pass(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A pass continues in the next reading, of whichever daemon, at once, until the end; each reads the head first."""
    jobs = _ended(*range(8))
    provider.jobs = paged(jobs)
    async with open_source(store, provider, page_size=2) as source:
        await _job_list(store, source, gap=ONE_PAGE).tick()
        assert [None] == _cursors(provider)
        began = await sql.fetchval("select job_list_attempt_at from checkpointd.sources")
        for cursor in ("ftjob-01", "ftjob-03"):
            jobs[0]["status"] = cursor
            await _job_list(store, source, gap=ONE_PAGE).tick()
            assert [None, cursor] == _cursors(provider)
            assert cursor == await sql.fetchval(STATUS, "ftjob-00")
            assert await sql.fetchval("select job_list_complete_at is null from fine_tuning.sources")
        await _job_list(store, source, gap=ONE_PAGE).tick()
        assert [None, "ftjob-05"] == _cursors(provider)
    assert 8 == await sql.fetchval("select count(*) from fine_tuning.jobs")
    row = await sql.fetchrow(PASS)
    assert row
    assert (began, True, None, 0) == (row[0], row[0] < row[1], row[2], row[3])


async def test_a_stopped_pass_goes_on(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon that is stopped in a pass has saved the cursor of its last page, and another one continues there."""
    jobs = _ended(*range(6))
    third, reached, _ = held(page([]))
    provider.jobs = [page(jobs[:2], has_more=True), page(jobs[2:4], has_more=True), third]
    async with open_source(store, provider, page_size=2) as source:
        stopped = asyncio.ensure_future(_job_list(store, source).tick())
        await reached.wait()
        await until_true(sql, "select job_list_cursor = 'ftjob-03' from checkpointd.sources")
        stopped.cancel()
        await asyncio.wait([stopped])
        _cursors(provider)
        provider.jobs = paged(jobs)
        await _job_list(store, source).tick()
    assert [None, "ftjob-03"] == _cursors(provider)
    assert 6 == await sql.fetchval("select count(*) from fine_tuning.jobs where status = 'succeeded'")


async def test_a_pass_ends_with_its_lease(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon whose lease was lost saves no cursor, and requests no page but the one that it requested already."""
    first, reached, go_on = held(page(_ended(0), has_more=True))
    provider.jobs = [first, page(_ended(1), has_more=True), page(_ended(2))]
    async with open_source(store, provider, page_size=1) as source:
        late = asyncio.ensure_future(_job_list(store, source).tick())
        await reached.wait()
        await sql.execute("update checkpointd.sources set job_list_lease_token = job_list_lease_token + 1")
        go_on.set()
        await late
    assert _cursors(provider) in ([None], [None, "ftjob-00"])
    assert await sql.fetchval(
        "select job_list_cursor is null and job_list_complete_at is null from checkpointd.sources"
    )


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_changes_far_down_are_known_within_minutes(
    store: Store, provider: Provider, sql: asyncpg.Connection, oldest_first: bool
) -> None:
    """A new job at the end of a list, and an ended one that runs again, are known after the five minutes of a pass."""
    jobs = _ended(*range(6))
    provider.jobs = paged(jobs)
    async with open_source(store, provider, page_size=2) as source:
        job_list = _job_list(store, source)
        await job_list.tick()
        jobs[4]["status"] = "running"
        jobs.insert(6 if oldest_first else 0, *_ended(6))
        _cursors(provider)
        await _pass_time(sql, 30)
        await job_list.tick()
        assert (1 if oldest_first else 2) == len(_cursors(provider))
        assert (not oldest_first) is await sql.fetchval("select count(*) = 7 from fine_tuning.jobs")
        await _pass_time(sql, 300)
        await job_list.tick()
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.jobs")
    assert "running" == await sql.fetchval(STATUS, "ftjob-04")


async def test_jobs_inserted_during_a_pass(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Jobs that are inserted at any place during a pass are known when the next one ends; no other job is missed."""
    jobs = _ended(*range(0, 40, 5))
    provider.jobs = paged(jobs)
    async with open_source(store, provider, page_size=2) as source:
        for number in (2, 13, 28, 39, 44, 46):
            await _job_list(store, source, gap=ONE_PAGE).tick()
            jobs.append(_ended(number)[0])
            jobs.sort(key=lambda listed: -int(listed["id"][-2:]))
        await _job_list(store, source).tick(due_or_not=True)
        await _job_list(store, source).tick(due_or_not=True)
    assert 14 == await sql.fetchval("select count(*) from fine_tuning.jobs")


async def test_a_lost_cursor_restarts_the_pass(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the provider refuses the cursor, because its job was deleted, the pass starts again, and misses no job."""
    jobs = _ended(*range(6))
    listing = paged(jobs)

    async def answer(request: web.Request) -> web.StreamResponse:
        known = {None, *(listed["id"] for listed in jobs)}
        return await listing(request) if request.query.get("after") in known else error(404, "not_found")

    provider.jobs = answer
    async with open_source(store, provider, page_size=2) as source:
        await _job_list(store, source, gap=ONE_PAGE).tick()
        await _job_list(store, source, gap=ONE_PAGE).tick()
        del jobs[3]
        _cursors(provider)
        await _job_list(store, source).tick()
        assert [None, "ftjob-03"] == _cursors(provider)
        assert "HTTP 404" in await sql.fetchval("select job_list_error from fine_tuning.sources")
        await _pass_time(sql, 300)
        await _job_list(store, source).tick()
    assert [None, "ftjob-01", "ftjob-04"] == _cursors(provider)
    assert 6 == await sql.fetchval("select count(*) from fine_tuning.jobs")
    assert await sql.fetchval(
        "select job_list_error is null and job_list_complete_at is not null from fine_tuning.sources"
    )


async def test_a_page_that_stays_unreadable(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A pass whose next page fails resumes there twice; then it starts again, because another cursor may work."""
    jobs = _ended(*range(6))
    listing = paged(jobs)

    async def answer(request: web.Request) -> web.StreamResponse:
        return error(501, "broken") if request.query.get("after") == "ftjob-01" else await listing(request)

    provider.jobs = answer
    async with open_source(store, provider, page_size=2) as source:
        job_list = _job_list(store, source)
        seen = []
        for _ in range(4):
            await job_list.tick(due_or_not=True)
            seen.append(_cursors(provider)[0:2])
            jobs[:] = jobs if len(seen) < 3 else _ended(9, *range(6))
    assert await sql.fetchval("select job_list_complete_at is not null from fine_tuning.sources")
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.jobs")


@pytest.mark.parametrize("ignores_cursor", [True, False])
async def test_an_endless_list(store: Store, provider: Provider, sql: asyncpg.Connection, ignores_cursor: bool) -> None:
    """A pass over a list that repeats a page, or never ends, fails, is reported, and starts again after a pause."""
    provider.jobs = page(_ended(0, 1), has_more=True)
    pages = 1 if ignores_cursor else JOB_LIST_PAGES - 1
    async with open_source(store, provider, page_size=2) as source:
        await sql.execute(
            "update checkpointd.sources set job_list_cursor = $1, job_list_pages = $2",
            "ftjob-01" if ignores_cursor else "ftjob-99", pages,
        )  # fmt: skip
        await _job_list(store, source, discover=False).tick()
    assert 2 == len(provider.requests)
    row = await sql.fetchrow(
        """select job_list_cursor is null, job_list_complete_at is null,
        extract(epoch from job_list_due_at - job_list_attempt_at)::float, job_list_error from checkpointd.sources"""
    )
    reason = "a page was returned twice" if ignores_cursor else "more than 10000 pages"
    assert row
    assert (True, True, 60, True) == (row[0], row[1], row[2], reason in row[3])


async def test_unfinished_jobs_far_down(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The head is read further for unfinished jobs, up to ten pages; a job that is not there is left to the passes."""
    jobs = _ended(*range(30))
    jobs[5]["status"] = jobs[20]["status"] = "running"
    provider.jobs = paged(jobs)
    async with open_source(store, provider, page_size=1) as source:
        job_list = _job_list(store, source)
        await job_list.tick()
        requests = []
        for _ in range(3):
            _cursors(provider)
            await _pass_time(sql, 30)
            await job_list.tick()
            requests.append(len(_cursors(provider)))
    assert [HEAD_PAGES, 6, 6] == requests


async def test_a_pass_leaves_half_of_the_rate_limit(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """With a rate limit, a reading makes half of the requests that it permits until the next one is due."""
    provider.jobs = paged(_ended(*range(9)))
    async with open_source(store, provider, page_size=1, request_interval=0.5) as source:
        await _job_list(store, source, gap=2).tick(due_or_not=True)
    assert [None, "ftjob-00"] == _cursors(provider)
    gap = "select extract(epoch from job_list_due_at - job_list_attempt_at)::float from checkpointd.sources"
    assert 2 == pytest.approx(await sql.fetchval(gap))


@pytest.mark.parametrize(
    ("began", "listed", "is_listed"),
    [
        (-7000, None, False),  # a pass began after the job was missing, and did not show it
        (-9000, None, True),  # no pass began since
        (-7000, -8000, True),  # shown less than an hour before the pass began: the row is written twice an hour
        (-3000, -8000, False),
        (-100_000, None, False),  # the list was not read to its end for a day: perhaps it cannot be read any more
    ],
)
async def test_a_job_that_no_pass_could_show_is_not_gone(
    store: Store, sql: asyncpg.Connection, began: int, listed: int | None, is_listed: bool
) -> None:
    """A missing job counts as unlisted only if a pass that began after it was missing did not show it."""
    await track(store)
    await sql.execute(
        """update checkpointd.sources set job_list_complete_from = now() + $1::float * interval '1 s',
        job_list_complete_at = now() + ($1::float + 50) * interval '1 s'""",
        began,
    )
    await sql.execute(
        """update checkpointd.polling set error_class = 'missing', failures = 5, equal_failures = 5,
        failing_since = now() - interval '8000 s', listed_at = now() + $1::float * interval '1 s'""",
        listed,
    )
    (lease,) = await store.claim_named_jobs(await store.find_jobs([JOB]), {}, 60)
    assert is_listed is lease.is_listed
    await store.release([lease])
    (lease,) = await store.claim_due_jobs({lease.source: Capacity(1, 1, None)}, 60)
    assert is_listed is lease.is_listed


@pytest.mark.slow
async def test_discovery_of_a_long_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """20,000 jobs are discovered at less than 0.5 s of work per page, and the newest page is read every second.

    The next page is requested while one is saved. So 1,000 pages (100,000 jobs) at 0.3 s take 1,000 times the larger of
    0.3 s and the work for a page: five minutes if the work takes less, as it does (0.05 s on an idle machine), and
    1,000 * 0.5 s = 500 s at the limit of this test. With readings of 30 s, 17 of them add a head of 0.3 s and the wait
    for a tick of 1 s each: 22 s. Together they are less than ten minutes.
    """
    ids = [f"ftjob-{n:05}" for n in range(20_000)]
    random.Random(7).shuffle(ids)
    places = {job_id: place for place, job_id in enumerate(ids)}
    heads: list[float] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        after = request.query.get("after")
        start = 0 if after is None else places[after] + 1
        if after is None:
            heads.append(time.monotonic())
        await asyncio.sleep(0.003)  # the time that the page takes
        listed = [job(job_id, status="succeeded") for job_id in ids[start : start + 100]]
        return page(listed, has_more=start + 100 < len(ids))

    provider.jobs = answer
    started = time.monotonic()
    async with measure_stalls() as stalled, open_source(store, provider) as source:
        job_list = _job_list(store, source, gap=1)
        while not await sql.fetchval("select job_list_complete_at is not null from fine_tuning.sources"):
            await job_list.tick()
        took = time.monotonic() - started
        longest = max(later - head for head, later in pairwise([*heads, time.monotonic()]))
        waited = 3 * stalled()  # a busy machine delays the database, which this process waits for, as often as this one
    figures = f"{took / 200:.3f} s per page, {len(heads)} readings, {longest:.1f} s at most; waited {waited:.1f} s"
    assert took < 200 * 0.5 + waited, figures
    assert longest < 1 + 3 * 0.5 + waited, figures  # the pages that were begun in time
    assert len(ids) == await sql.fetchval("select count(*) from fine_tuning.jobs where status = 'succeeded'")
    assert 200 + len(heads) >= len(provider.requests)
