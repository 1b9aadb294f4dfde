"""A database that is far away: each round trip takes two seconds, or the line carries a few kilobytes per second."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import daemon, daemon_env, track
from service.faults.proxy import Proxy
from support.harness import until_true
from support.provider import Provider, checkpoint, job, page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ONE_WAY = 1.0
"""Seconds from one end to the other."""
SECONDS = 120
"""How long each step may take: connecting, a claim, the request, and a save."""

NAME = "ftjob-far"
STORED = "select count(*) = {} from fine_tuning.checkpoints"
STATUS = "select count(*) = 1 from fine_tuning.jobs where status = '{}'"
RUNNING = "select count(*) = 10 from fine_tuning.jobs where status = 'running'"
LOSS = "select count(*) = 1 from fine_tuning.checkpoints where train_loss = {}"


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of the test's database."""
    async with Proxy(url) as opened:
        yield opened


async def test_round_trips_of_two_seconds(
    url: str, provider: Provider, proxy: Proxy, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """With round trips of 2 s, checkpoints, changes and statuses are stored, also after the connections were cut."""
    proxy.latency = lambda _: ONE_WAY
    provider.jobs = page([job(NAME)])
    provider.checkpoints[NAME] = page([checkpoint(n, NAME) for n in (2, 1)])
    await track(url, [NAME])
    env = daemon_env(tmp_path, proxy.url, provider.url, CHECKPOINTD_LEASE_SECONDS="60")
    async with daemon(env) as one:
        await until_true(sql, STORED.format(2), seconds=SECONDS)
        provider.checkpoints[NAME] = page([checkpoint(2, NAME, train_loss=0.75), checkpoint(1, NAME)])
        await until_true(sql, LOSS.format(0.75), seconds=SECONDS)
        await until_true(sql, "select min(quiet_polls) > 0 from fine_tuning.freshness", seconds=SECONDS)
        provider.jobs = page([job(NAME, "succeeded")])
        await until_true(sql, STATUS.format("succeeded"), seconds=SECONDS)
        assert [] == one.logged("poll.dropped")
        proxy.reset()  # a save whose answer is lost is logged as dropped, although it is stored
        provider.checkpoints[NAME] = page([checkpoint(n, NAME) for n in (3, 2, 1)])
        await until_true(sql, STORED.format(3), seconds=SECONDS)


async def test_slow_line(url: str, provider: Provider, proxy: Proxy, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """At 20 kB/s, 600 kB of news of one job, news of ten other jobs and 400 kB of job records are stored in parts."""
    names = [f"ftjob-{n}" for n in range(10)]
    long = [{**checkpoint(n, NAME), "note": "x" * 6000} for n in range(100, 0, -1)]
    provider.checkpoints |= {name: page([checkpoint(n, name) for n in range(20, 0, -1)]) for name in names}
    provider.checkpoints[NAME] = page(long)
    provider.jobs = page([{**job(name, "running"), "note": "x" * 40_000} for name in names])
    await track(url, [NAME, *names])
    env = daemon_env(tmp_path, proxy.url, provider.url, CHECKPOINTD_LEASE_SECONDS="60", CHECKPOINTD_PAGE_SIZE="100")
    proxy.bytes_per_second = 20_000
    async with daemon(env) as one:
        await one.wait_for("daemon.ready")
        await until_true(sql, STORED.format(300), seconds=600)
        await until_true(sql, RUNNING, seconds=SECONDS)
