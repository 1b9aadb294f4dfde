"""Slow jobs delay no others, and failing ones recover as fast as healthy ones are polled."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.cadence import CadenceSettings
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import SaveQueue
from checkpointd.polling.setup import open_poller
from checkpointd.polling.slots import MOST_PER_SLOT
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.telemetry.health import Health
from service.faults.daemons import measure_stalls
from support.harness import polling_one, track, until, until_true
from support.provider import Provider, error, page

TIMEOUT = 8.0
INTERVAL = 1.0
"""The request timeout, and the poll gap of jobs that do not fail, in seconds."""


@asynccontextmanager
async def _daemon(store: Store, provider: Provider, interval: float = INTERVAL) -> AsyncIterator[ActiveSource]:
    """Poll with 16 slots, ticking like the daemon."""
    keys = await store.register_sources({"test": "openai"})
    health = Health()
    cadence = CadenceSettings(interval, interval, settle=86400, assume_ended=3 * 86400)
    async with open_session() as http:
        client = Client(http, provider.url, {}, {}, Limits(request_timeout=TIMEOUT))
        source = ActiveSource(keys["test"], "test", client, concurrency=16, request_interval=None)
        async with open_poller(store, [source], cadence, 60, SaveQueue(store, health), health, 1) as poller:
            ticking = asyncio.ensure_future(_tick(poller))
            try:
                yield source
            finally:
                ticking.cancel()
                await asyncio.wait([ticking])


async def _tick(poller: Poller) -> None:
    """Tick every quarter of a second, and when the poller asks for it."""
    while True:
        await poller.tick()
        try:
            async with asyncio.timeout(0.25):
                await poller.wake.wait()
        except TimeoutError:
            continue
        poller.wake.clear()


async def _drip(request: web.Request) -> web.StreamResponse:
    """Send one byte per second for ever."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(1)  # the rate of the drip


def _slow(seconds: float) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)  # the time of the answer
        return page([])

    return answer


class Answered:
    """When each job was answered by its list."""

    def __init__(self, provider: Provider, jobs: Iterable[str]) -> None:
        self.at = defaultdict[str, list[float]](list)
        provider.checkpoints |= dict.fromkeys(jobs, self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.at[request.match_info["job"]].append(time.monotonic())
        return page([])

    def longest_wait(self, jobs: Iterable[str], started: float, ended: float) -> float:
        """Return the longest time between two answers of a job."""
        return max(b - a for job in jobs for a, b in pairwise([started, *self.at[job], ended]))


@pytest.mark.slow
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("drips", [16, 100, 300])
async def test_slow_jobs_delay_no_others(store: Store, provider: Provider, drips: int, later: bool) -> None:
    """However many jobs send one byte per second, each other job is read within a timeout and an interval."""
    slow, healthy = [f"ftjob-s{n:03}" for n in range(drips)], [f"ftjob-h{n:02}" for n in range(40)]
    await track(store, *slow, *healthy)
    answered = Answered(provider, [*healthy, *slow] if later else healthy)
    if not later:
        provider.checkpoints |= dict.fromkeys(slow, _drip)
    most = 0
    async with measure_stalls() as stalled, _daemon(store, provider) as source:
        started = time.monotonic()
        if later:
            await until(lambda: len(answered.at) == drips + 40)
            provider.checkpoints |= dict.fromkeys(slow, _drip)
        while time.monotonic() < started + 3 * TIMEOUT:
            await asyncio.sleep(0.05)  # between two measurements
            most = max(most, source.slots.running)
        longest, late = answered.longest_wait(healthy, started, time.monotonic()), stalled()
    print(f"{drips} drips, {later=}: longest wait {longest:.2f} s, stalled {late:.2f} s, {most} polls at once")  # noqa: T201
    assert TIMEOUT + INTERVAL + late > longest
    assert MOST_PER_SLOT * source.concurrency >= most


@pytest.mark.slow
async def test_all_recover_at_full_speed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After one failure each, 300 jobs are read as fast as when they were healthy."""
    jobs = [f"ftjob-{n:03}" for n in range(300)]
    await track(store, *jobs)
    answered = Answered(provider, jobs)
    seconds = []
    async with measure_stalls() as stalled, _daemon(store, provider, 3600) as source:
        for failures in (0, 1):
            await until(lambda: source.claimed == 0)
            await until_true(sql, "select bool_and(lease_expires_at is null) from checkpointd.polling")
            answered.at.clear()
            started, late = time.monotonic(), stalled()
            await sql.execute("update checkpointd.polling set failures = $1, next_poll_at = now()", failures)
            await until(lambda: len(answered.at) == len(jobs))
            seconds.append(time.monotonic() - started - stalled() + late)
    print(f"healthy {seconds[0]:.2f} s, after a failure each {seconds[1]:.2f} s")  # noqa: T201
    assert 1.5 * seconds[0] + 1 > seconds[1]


@pytest.mark.slow
async def test_lasting_failures_delay_no_others(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Beside 300 jobs that fail for ever with 500, a good job with one failure is read when its own back-off ends."""
    bad = [f"ftjob-b{n:03}" for n in range(300)]
    await track(store, "ftjob-good", *bad)
    await sql.execute("update checkpointd.polling set failures = 5 from checkpointd.jobs where key = job and id ~ '-b'")
    provider.checkpoints = dict.fromkeys(bad, error(500))
    answered = Answered(provider, ["ftjob-good"])
    async with measure_stalls() as stalled, _daemon(store, provider) as source:
        await until(lambda: len(answered.at["ftjob-good"]) == 3)
        listed = provider.checkpoints["ftjob-good"]
        provider.checkpoints["ftjob-good"] = error(500)
        has_failed = (
            "select consecutive_failures = 1 from fine_tuning.freshness where fine_tuning_job_id = 'ftjob-good'"
        )
        await until_true(sql, has_failed)
        provider.checkpoints["ftjob-good"] = listed
        answered.at.clear()
        started = time.monotonic()
        await until(lambda: bool(answered.at["ftjob-good"]))
        waited, late = time.monotonic() - started, stalled()
        assert not source.attribution.is_silent(asyncio.get_running_loop().time())
    print(f"read after {waited:.2f} s, stalled {late:.2f} s, {len(provider.requests)} requests in all")  # noqa: T201
    assert 2 * INTERVAL + INTERVAL + late > waited


@pytest.mark.slow
async def test_new_lasting_failures_delay_no_others(store: Store, provider: Provider) -> None:
    """Beside 300 new jobs that fail for ever with 500, five good jobs are read again and again, within seconds."""
    bad, good = [f"ftjob-b{n:03}" for n in range(300)], [f"ftjob-g{n}" for n in range(5)]
    await track(store, *good)
    provider.checkpoints = dict.fromkeys(bad, error(500))
    answered = Answered(provider, good)
    async with measure_stalls() as stalled, _daemon(store, provider):
        await until(lambda: len(answered.at) == len(good))
        await track(store, *bad)
        started, late = time.monotonic(), stalled()
        await asyncio.sleep(30)  # the time of the measurement
        longest, late = answered.longest_wait(good, started, time.monotonic()), stalled() - late
    print(f"longest wait {longest:.2f} s, stalled {late:.2f} s, {len(provider.requests)} requests in all")  # noqa: T201
    assert 8 * INTERVAL + late > longest


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 402, 429])
async def test_one_refused_job_silences_no_source(store: Store, provider: Provider, status: int) -> None:
    """Beside a job that is refused for ever, 40 good jobs are read about as often as without it."""
    good = [f"ftjob-{n:02}" for n in range(40)]
    await track(store, "ftjob-bad", *good)
    answered = Answered(provider, [*good, "ftjob-bad"])
    counts = []
    async with measure_stalls() as stalled, _daemon(store, provider):
        for answer in (provider.checkpoints["ftjob-bad"], error(status)):
            provider.checkpoints["ftjob-bad"] = answer
            answered.at.clear()
            started = time.monotonic()
            await asyncio.sleep(25)  # the time of the measurement
            counts.append(sum(len(answered.at[name]) for name in good))
            longest = answered.longest_wait(good, started, time.monotonic())
        late = stalled()
    print(f"{status}: {counts[0]} lists without refusals, {counts[1]} with them, longest wait {longest:.2f} s")  # noqa: T201
    assert 0.85 * counts[0] - 40 * late < counts[1]
    assert 5 * INTERVAL + late > longest


@pytest.mark.slow
@pytest.mark.parametrize("others", ["quick", "slow"])
async def test_slow_lists_are_read_to_their_ends(
    store: Store, provider: Provider, sql: asyncpg.Connection, others: str
) -> None:
    """Twenty jobs whose lists take long never fail, among quick jobs and among slow ones."""
    slow = [f"ftjob-s{n:02}" for n in range(20)]
    rest = [f"ftjob-r{n:03}" for n in range(500 if others == "quick" else 40)]
    await track(store, *slow, *rest)
    Answered(provider, rest)
    provider.checkpoints |= dict.fromkeys(slow if others == "quick" else [*slow, *rest], _slow(0.4 * TIMEOUT))
    most = 0
    async with _daemon(store, provider) as source:
        started = time.monotonic()
        while time.monotonic() < started + 3 * TIMEOUT:
            await asyncio.sleep(0.05)  # between two measurements
            most = max(most, source.slots.running)
    read = "select max(consecutive_failures), count(last_complete_at) from fine_tuning.freshness"
    failures, complete = await sql.fetchrow(read) or ()
    asked = sum(map(provider.asked, slow))
    print(f"{others}: {most} polls at once, {asked} requests for slow lists, {len(provider.requests)} in all")  # noqa: T201
    assert (0, len(slow) + len(rest)) == (failures, complete)
    assert most <= (MOST_PER_SLOT * source.concurrency if others == "quick" else 1.5 * source.concurrency)


@pytest.mark.slow
async def test_slow_jobs_delay_no_others_of_a_sync(store: Store, provider: Provider) -> None:
    """Jobs that are polled once, and come after more slow ones than there are slots, are read before those end."""
    slow, healthy = [f"ftjob-s{n:02}" for n in range(10)], [f"ftjob-z{n:02}" for n in range(20)]
    await track(store, *slow, *healthy)
    answered = Answered(provider, healthy)
    provider.checkpoints |= dict.fromkeys(slow, _drip)
    jobs = sorted(await store.find_jobs([*slow, *healthy]), key=lambda job: job.id)
    polling = polling_one(store, provider, request_timeout=TIMEOUT)
    async with measure_stalls() as stalled, polling as (poller, source, _):
        started = time.monotonic()
        polled = asyncio.ensure_future(poller.poll_named(jobs))
        most = 0
        while not polled.done():
            most = max(most, len(source.waiting))
            await asyncio.sleep(0.05)  # between two measurements
        late = stalled()
    assert ({}, len(healthy)) == (polled.result(), len(answered.at))
    waited = max(times[0] for times in answered.at.values()) - started
    print(f"read after {waited:.2f} s, stalled {late:.2f} s, {most} jobs waited at most")  # noqa: T201
    assert TIMEOUT / 2 + late > waited
