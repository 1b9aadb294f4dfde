"""F24, F28: a provider that answers with anything but a list, or with a list without end."""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from service.faults.daemons import INTERVAL, daemon, surroundings, track, until, watching_the_machine
from service.faults.invariants import Judge
from service.faults.truth import Request, Truth
from support.provider import Answer, Provider, body, checkpoint, error, held, page, raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HTML = "<!DOCTYPE html><html><body>error code: 522</body></html>"


async def _never(_: web.Request) -> web.StreamResponse:
    """Take the connection, and say nothing."""
    await asyncio.sleep(10)
    return web.Response()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"

OF_JOBS: list[Answer] = [
    error(500),
    body(HTML, "text/html", 522),
    body(HTML, "text/html"),
    body(HTML),
    body('{"error": {"message": "no", "type": "server_error", "code": null}}'),
    raw(HEAD + b'{"object": "list", "data": [', reset=True),
    raw(b""),
    _never,
    error(404, "fine_tune_not_found"),
    error(403, "other"),
    error(302, Location="https://example.org/"),
    error(409, x_should_retry="false"),
    page([], has_more=True),
]
"""Answers that are a job's own trouble: all other jobs are polled as if nothing were."""

SOURCE_FAILURES = [
    error(429, "rate_limit_exceeded", Retry_After="2"),
    error(429, "insufficient_quota", Retry_After="2"),
    error(429, "slow_down", retry_after_ms="NaN", Retry_After="2"),
    error(429, "slow_down", retry_after_ms="-1", Retry_After="2"),
]
"""Answers after which the whole source waits for two seconds, whatever nonsense stands beside it."""


def _endless(truth: Truth, *, new: bool) -> Answer:
    """Return a list without an end: of new items on each page, or of the same ones, whatever `after` says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["job"]
        first = int(request.query.get("after", "0_0").rpartition("_")[2]) + 1 if new else 1
        items = [{**checkpoint(n, name), "id": f"ftckpt_{name}_without_end_{n:05d}"} for n in range(first, first + 5)]
        truth.list_once(name, items)
        return page(items, has_more=True)

    return answer


def _listings(requests: list[Request], endless: set[str]) -> set[str | None]:
    """Return the jobs that were asked for from their first page: these ones again, so that one of theirs is over."""
    begun = Counter(r.job for r in requests if r.after is None)
    return {name for name, n in begun.items() if n > (name in endless)}


def _pages(requests: list[Request], name: str) -> set[int]:
    """Return of how many pages the listings of a job were, but for the last one, which may be under way."""
    starts = [n for n, after in enumerate(r.after for r in requests if r.job == name) if after is None]
    return {b - a for a, b in pairwise(starts)}


async def _until_those_have_ended(sql: asyncpg.Connection) -> None:
    """Wait until all polls have ended that are under way now."""
    query = """select exists (select from checkpointd.polling
               where lease_expires_at is not null and last_attempt_at <= $1)"""
    now = await sql.fetchval("select clock_timestamp()")
    async with asyncio.timeout(60):
        while await sql.fetchval(query, now):  # noqa: ASYNC110  # another process writes, and gives no event
            await asyncio.sleep(0.02)


async def test_no_list(
    url: str, provider: Provider, rng: random.Random, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """F24, F28. Whatever a job's list is answered with, no success is told, and the other jobs are polled on time."""
    truth = Truth(provider, len(OF_JOBS) + 5, rng)
    for name in truth.jobs:
        truth.grow(name)
    *answered, same, new, _, _, _ = truth.jobs
    healthy = truth.jobs[-3:]
    await track(url, truth.jobs)
    judge = Judge(url, truth)
    async with daemon(surroundings(tmp_path, url, provider.url, CHECKPOINTD_LEASE_SECONDS="60")) as one:
        await judge.until_all_is_stored()
        truth.faults = dict(zip(answered, OF_JOBS, strict=True))
        truth.faults |= {same: _endless(truth, new=False), new: _endless(truth, new=True)}
        await _until_those_have_ended(sql)  # they may have read all before
        known, began = len(truth.requests), time.monotonic()
        at = await sql.fetchval("select clock_timestamp()")
        async with judge.watching(), watching_the_machine() as stood_still:
            await asyncio.sleep(7)
            ended, requests = time.monotonic(), truth.requests[known:]
            late = stood_still()
        told = "select fine_tuning_job_id from fine_tuning.freshness where last_complete_at > $1"
        assert set(healthy) == {row[0] for row in await sql.fetch(told, at)}
        begun = [(r.job, r.at) for r in requests if r.after is None]
        gaps = [
            max(b - a for a, b in pairwise([began, *(t for job, t in begun if job == name), ended])) for name in healthy
        ]
        print(f"longest gap of a healthy job {max(gaps):.2f} s; {len(requests)} requests")  # noqa: T201
        assert 4 * INTERVAL + 2 + late > max(gaps)
        # A gap that doubles from 0.2 s fits five times or six into 7 s; in each poll are at most three tries.
        tries = Counter(job for job, _ in begun if job in truth.faults)
        assert {} == {name: n for name, n in tries.items() if n > 18}
        # Failing jobs share a quarter of the slots, and some hold one for seconds: each has its turn, if not in 7 s.
        await until(lambda: _listings(truth.requests[known:], {same, new}) >= set(truth.faults), 60)
        # A page that comes too late is asked for again: so of their listings one at least is of just so many pages.
        await until(
            lambda: 2 in _pages(truth.requests[known:], same) and 100 in _pages(truth.requests[known:], new), 60
        )
        assert 110 > max(_pages(truth.requests[known:], same) | _pages(truth.requests[known:], new))
        truth.faults = {}
        await _until_those_have_ended(sql)  # else one that fails yet is due only after its gap, which has grown
        await sql.execute("update checkpointd.polling set next_poll_at = least(next_poll_at, now())")
        await judge.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.at_once


async def test_source_asks_to_wait(
    url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """F24. A throttled or spent source is left alone for as long as it asks, by all daemons, and then polled again."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(daemon(surroundings(tmp_path, url, truth.provider.url)))
        await judge.until_all_is_stored()
        async with judge.watching():
            for answer in SOURCE_FAILURES:
                waiting, reached, go_on = held(answer)
                truth.faults[truth.jobs[0]] = waiting
                await asyncio.wait_for(reached.wait(), 30)
                del truth.faults[truth.jobs[0]]
                answered = time.monotonic()
                go_on.set()
                # Once all can know of it, what is under way goes on, page by page; no poll is begun.
                heard = await _until_paused(sql) + 0.5
                await until(lambda: _first(truth.requests, heard), 30)  # noqa: B023
                assert 1.9 < _first(truth.requests, heard) - answered
        await judge.until_all_is_stored()
    assert [] == truth.at_once


async def _until_paused(sql: asyncpg.Connection) -> float:
    """Wait until the source pauses for all daemons; returns the time by our clock."""
    async with asyncio.timeout(30):
        while not await sql.fetchval("select max(resume_at) > clock_timestamp() from checkpointd.sources"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return time.monotonic()


def _first(requests: list[Request], since: float) -> float:
    """Return when the first poll was begun since a time, 0 if none was."""
    return min((r.at for r in requests if r.job and r.after is None and r.at > since), default=0.0)
