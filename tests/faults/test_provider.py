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

from faults.daemons import INTERVAL, daemon, surroundings, track, until
from faults.invariants import Judge
from faults.truth import Request, Truth
from provider import Answer, Provider, body, checkpoint, error, held, page, raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

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

OF_SOURCE = [
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


def _pages(requests: list[Request], name: str) -> int:
    """Return of how many pages each listing of a job was; the last one may be under way."""
    starts = [n for n, after in enumerate(r.after for r in requests if r.job == name) if after is None]
    (pages,) = {b - a for a, b in pairwise(starts)}
    return pages


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
    async with daemon(surroundings(tmp_path, url, provider.url, CHECKPOINTD_LEASE_SECONDS="10")) as one:
        await judge.until_all_is_stored()
        truth.faults = dict(zip(answered, OF_JOBS, strict=True))
        truth.faults |= {same: _endless(truth, new=False), new: _endless(truth, new=True)}
        known, began = len(truth.requests), time.monotonic()
        at = await sql.fetchval("select clock_timestamp()")
        async with judge.watching():
            await asyncio.sleep(7)
            ended, requests = time.monotonic(), truth.requests[known:]
        told = """select fine_tuning_job_id from fine_tuning.freshness
                  where last_complete_at > $1::timestamptz + interval '1 s'"""
        assert set(healthy) == {row[0] for row in await sql.fetch(told, at)}
        begun = [(r.job, r.at) for r in requests if r.after is None]
        gaps = [
            max(b - a for a, b in pairwise([began, *(t for job, t in begun if job == name), ended])) for name in healthy
        ]
        print(f"longest gap of a healthy job {max(gaps):.2f} s; {len(requests)} requests")  # noqa: T201
        assert 4 * INTERVAL + 2 > max(gaps)
        # A gap that doubles from 0.2 s fits five times or six into 7 s; in each poll are at most three tries.
        tries = Counter(job for job, _ in begun if job in truth.faults)
        assert {} == {name: n for name, n in tries.items() if n > 18}
        # Failing jobs share a quarter of the slots, and some hold one for seconds: each has its turn, if not in 7 s.
        await until(lambda: _listings(truth.requests[known:], {same, new}) >= set(truth.faults), 60)
        requests = truth.requests[known:]
        assert (2, 100) == (_pages(requests, same), _pages(requests, new))
        truth.faults = {}
        await sql.execute("update checkpointd.polling set next_poll_at = least(next_poll_at, now())")
        await judge.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.at_once


async def test_source_asks_to_wait(url: str, truth: Truth, judge: Judge, tmp_path: Path) -> None:
    """F24. A throttled or spent source is left alone for as long as it asks, by all daemons, and then polled again."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(daemon(surroundings(tmp_path, url, truth.provider.url)))
        await judge.until_all_is_stored()
        async with judge.watching():
            for answer in OF_SOURCE:
                waiting, reached, go_on = held(answer)
                truth.faults[truth.jobs[0]] = waiting
                await asyncio.wait_for(reached.wait(), 30)
                del truth.faults[truth.jobs[0]]
                go_on.set()
                answered = time.monotonic()
                # Until the answer is read, and all have heard of it, what is under way goes on.
                await until(lambda: truth.requests[-1].at > answered + 1, 30)  # noqa: B023
                later = [r.at - answered for r in truth.requests if r.at > answered]
                assert 1.9 < min(t for t in later if t > 1) < 6
        await judge.until_all_is_stored()
    assert [] == truth.at_once
