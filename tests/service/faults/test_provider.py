"""A provider that answers with anything but a list, or with a list that never ends."""

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

from service.faults.daemons import POLL_GAP, daemon, daemon_env, measure_stalls, track
from service.faults.invariants import Invariants
from service.faults.truth import Request, Truth
from support.harness import until, until_true
from support.provider import Answer, Provider, body, checkpoint, error, held, page, raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HTML = "<!DOCTYPE html><html><body>error code: 522</body></html>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"


async def _too_late(_: web.Request) -> web.StreamResponse:
    """Accept the connection, and answer only after the request has timed out."""
    await asyncio.sleep(10)  # longer than the request timeout of 1 s
    return web.Response()


JOB_FAULTS: list[Answer] = [
    error(500),
    body(HTML, "text/html", 522),
    body(HTML, "text/html"),
    body(HTML),
    body('{"error": {"message": "no", "type": "server_error", "code": null}}'),
    raw(HEAD + b'{"object": "list", "data": [', reset=True),
    raw(b""),
    _too_late,
    error(404, "fine_tune_not_found"),
    error(403, "other"),
    error(302, Location="https://example.org/"),
    error(409, x_should_retry="false"),
    page([], has_more=True),
]
"""Answers that concern one job only: all other jobs are polled as usual."""

SOURCE_FAULTS = [
    error(429, "rate_limit_exceeded", Retry_After="2"),
    error(429, "insufficient_quota", Retry_After="2"),
    error(429, "slow_down", retry_after_ms="NaN", Retry_After="2"),
    error(429, "slow_down", retry_after_ms="-1", Retry_After="2"),
]
"""Answers after which the whole source pauses for two seconds; an invalid header beside Retry-After is ignored."""


def _endless(truth: Truth, *, new_items: bool) -> Answer:
    """Return a list without an end: of new items on each page, or of the same items whatever `after` is."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["job"]
        first = int(request.query.get("after", "0_0").rpartition("_")[2]) + 1 if new_items else 1
        items = [{**checkpoint(n, name), "id": f"ftckpt_{name}_without_end_{n:05d}"} for n in range(first, first + 5)]
        truth.list_once(name, items)
        return page(items, has_more=True)

    return answer


def _listed_jobs(requests: list[Request], endless: set[str]) -> set[str | None]:
    """Return the jobs whose first page was requested, the endless ones twice: then one of their listings has ended."""
    starts = Counter(r.job for r in requests if r.after is None)
    return {name for name, count in starts.items() if count > (name in endless)}


def _page_counts(requests: list[Request], name: str) -> set[int]:
    """Return the numbers of pages of the listings of a job, except of the last one, which may not have ended."""
    starts = [n for n, after in enumerate(r.after for r in requests if r.job == name) if after is None]
    return {b - a for a, b in pairwise(starts)}


async def _until_running_polls_have_ended(sql: asyncpg.Connection) -> None:
    """Wait until all polls have ended that are running now."""
    have_ended = """
        select not exists (select from checkpointd.polling
        where lease_expires_at is not null and last_attempt_at <= $1)"""
    await until_true(sql, have_ended, await sql.fetchval("select clock_timestamp()"))


async def test_job_faults(
    url: str, provider: Provider, rng: random.Random, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Whatever is answered instead of a job's list, it is no success, and the other jobs are polled on time."""
    truth = Truth(provider, len(JOB_FAULTS) + 5, rng)
    *faulty, same, new, _, _, _ = truth.jobs
    healthy = truth.jobs[-3:]
    await track(url, truth.jobs)
    invariants = Invariants(url, truth, Counter())
    async with daemon(daemon_env(tmp_path, url, provider.url, CHECKPOINTD_LEASE_SECONDS="60")) as one:
        await invariants.until_all_is_stored()
        truth.faults = dict(zip(faulty, JOB_FAULTS, strict=True))
        truth.faults |= {same: _endless(truth, new_items=False), new: _endless(truth, new_items=True)}
        await _until_running_polls_have_ended(sql)  # they may have read everything before the faults
        known, started = len(truth.requests), time.monotonic()
        started_in_database = await sql.fetchval("select clock_timestamp()")
        async with invariants.checked(), measure_stalls() as stalled:
            await asyncio.sleep(7)  # the time of the measurement
            ended, requests = time.monotonic(), truth.requests[known:]
            late = stalled()
        succeeded = "select fine_tuning_job_id from fine_tuning.freshness where last_complete_at > $1"
        assert set(healthy) == {row[0] for row in await sql.fetch(succeeded, started_in_database)}
        starts = [(r.job, r.at) for r in requests if r.after is None]
        gaps = [
            max(b - a for a, b in pairwise([started, *(at for job, at in starts if job == name), ended]))
            for name in healthy
        ]
        print(f"longest gap of a healthy job {max(gaps):.2f} s; {len(requests)} requests")  # noqa: T201
        assert 4 * POLL_GAP + 2 + late > max(gaps)
        # A gap of 0.2 s that doubles leaves time for five or six polls in 7 s. Only the first one has two tries.
        # aiohttp sends each request twice if the connection is closed without a response.
        tries = Counter(job for job, _ in starts if job in truth.faults)
        assert {} == {name: count for name, count in tries.items() if count > 14}
        # Jobs that fail lastingly share a quarter of the slots: in 7 s not every job has had one.
        await until(lambda: _listed_jobs(truth.requests[known:], {same, new}) >= set(truth.faults))
        # A page that comes too late is requested again. Therefore only some listings have exactly so many pages.
        await until(lambda: 2 in _page_counts(truth.requests[known:], same))
        await until(lambda: 100 in _page_counts(truth.requests[known:], new))
        assert 110 > max(_page_counts(truth.requests[known:], same) | _page_counts(truth.requests[known:], new))
        truth.faults = {}
        await _until_running_polls_have_ended(sql)  # a poll that still fails would make its gap even longer
        await sql.execute("update checkpointd.polling set next_poll_at = least(next_poll_at, now())")
        await invariants.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.overlaps


async def test_source_faults(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """No daemon polls a throttled source, or one without quota, for the requested time; then all poll it again."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(daemon(daemon_env(tmp_path, url, truth.provider.url)))
        await invariants.until_all_is_stored()
        async with invariants.checked():
            for answer in SOURCE_FAULTS:
                waiting, reached, go_on = held(answer)
                truth.faults[truth.jobs[0]] = waiting
                await asyncio.wait_for(reached.wait(), 30)
                del truth.faults[truth.jobs[0]]
                answered = time.monotonic()
                go_on.set()
                # When all daemons know the pause, running polls continue page by page, and no poll is started.
                known_to_all = await _until_paused(sql) + 0.5
                await until(lambda: _first_start(truth.requests, known_to_all), 30)  # noqa: B023
                assert 1.9 < _first_start(truth.requests, known_to_all) - answered
        await invariants.until_all_is_stored()
    assert [] == truth.overlaps


async def _until_paused(sql: asyncpg.Connection) -> float:
    """Wait until the source pauses for all daemons. Returns the time of the monotonic clock."""
    is_paused = "select max(resume_at) > clock_timestamp() from checkpointd.sources"
    await until_true(sql, is_paused, seconds=30)
    return time.monotonic()


def _first_start(requests: list[Request], since: float) -> float:
    """Return when the first poll was started since a time, or 0 if none was."""
    return min((r.at for r in requests if r.job and r.after is None and r.at > since), default=0.0)
