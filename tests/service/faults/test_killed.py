"""F1, F3: daemons are killed with -9 and told to stop, anywhere in their work."""

import asyncio
import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import LEASE, Daemon, Nursery, daemon, surroundings, track, until, watching_the_machine
from service.faults.invariants import Judge
from service.faults.proxy import Proxy
from service.faults.truth import Truth
from support.provider import Provider
from support.verbs import get, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENT = {"CHECKPOINTD_LEASE_SECONDS": "60", "CHECKPOINTD_REQUEST_TIMEOUT_SECONDS": "60"}
"""Settings of a daemon that would wait as long as a provider takes; how long a stop takes is the default."""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kills by pidfd, which only Linux has")
async def test_kill_9_anywhere(url: str, provider: Provider, rng: random.Random, tmp_path: Path) -> None:
    """F1. Of two replicas one after the other is killed, 5 to 300 ms after it began to ask: nothing is lost."""
    truth = Truth(provider, 40, rng)  # those of who was killed are idle until its leases end: others must be due
    for name in truth.jobs:
        truth.grow(name)
    await track(url, truth.jobs)
    judge = Judge(url, truth)
    truth.delay = lambda: rng.uniform(0, 0.02)
    killed = cut_off = 0
    async with Nursery(tmp_path / "log") as nursery, judge.watching(0.1):

        async def live_and_die() -> bool:
            env = surroundings(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="2")
            key = env["OPENAI_API_KEY"]
            pid = await nursery.start(env)
            with suppress(TimeoutError):
                await until(lambda: truth.asked(key), 15 * LEASE)
            await asyncio.sleep(rng.uniform(0.005, 0.3))
            await nursery.kill(pid)
            return key in truth.leaders().values()

        async def replace_again_and_again() -> None:
            nonlocal killed, cut_off
            # A slow machine has longer for as many kills as prove something.
            while killed < 120 and time.monotonic() < over + (90 if killed < 15 or cut_off < 10 else 0):
                cut_off += await live_and_die()
                killed += 1

        over = time.monotonic() + 25
        await asyncio.gather(replace_again_and_again(), replace_again_and_again())
    async with daemon(surroundings(tmp_path, url, truth.provider.url)):
        await judge.until_all_is_stored()
    print(f"{killed} kills, {cut_off} within a listing, {len(truth.listed)} checkpoints, {judge.looks} looks")  # noqa: T201
    assert [] == truth.at_once
    assert killed >= 15
    assert cut_off >= 10


async def test_told_to_stop_anywhere(
    url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, rng: random.Random, tmp_path: Path
) -> None:
    """F3. Replicas end within 5 s of SIGTERM or SIGINT, whatever the provider takes, with status 0 and no lease."""
    truth.delay = lambda: rng.choice([0, 0, 0, 0.05, 0.9, 30])

    async def live_and_stop() -> float:
        async with daemon(surroundings(tmp_path, url, truth.provider.url, **PATIENT)) as one:
            await one.wait_for("daemon.ready")
            await asyncio.sleep(rng.uniform(0, 2))
            return await _stop(one, rng.choice([signal.SIGTERM, signal.SIGINT]))

    async with judge.watching():
        seconds = await asyncio.gather(*(live_and_stop() for _ in range(4)))
    assert 0 == await _leases(sql)
    truth.delay = lambda: 0.0
    async with daemon(surroundings(tmp_path, url, truth.provider.url)):
        await judge.until_all_is_stored()
    print(f"ended after {sorted(round(s, 2) for s in seconds)} s")  # noqa: T201
    assert 5 > max(seconds)
    assert [] == truth.at_once


@pytest.mark.parametrize("working", [True, False], ids=["working", "starting"])
@pytest.mark.usefixtures("judge")
async def test_told_to_stop_while_nothing_answers(
    url: str, truth: Truth, rng: random.Random, tmp_path: Path, *, working: bool
) -> None:
    """F3 with F7. As quickly where neither the database nor the provider answers, and a status page is waited for."""
    async with Proxy(url) as proxy:
        proxy.swallows = not working
        ready, silent = asyncio.Barrier(5), asyncio.Event()

        async def live_and_stop() -> float:
            async with daemon(surroundings(tmp_path, proxy.url, truth.provider.url, **PATIENT)) as one:
                await one.wait_for("daemon.ready" if working else "web.listening")
                port = int(re.findall(r"127\.0\.0\.1:(\d+)", one.logged("web.listening")[0])[0])
                await ready.wait()
                await silent.wait()
                looking = asyncio.create_task(get(port, "/"))
                await asyncio.sleep(rng.uniform(0, 3))
                took = await _stop(one, signal.SIGTERM)
                await asyncio.gather(looking, return_exceptions=True)
                return took

        growing = asyncio.create_task(truth.keep_growing(0.2))
        ending = [asyncio.create_task(live_and_stop()) for _ in range(4)]
        await ready.wait()
        truth.delay = lambda: rng.choice([0, 30])
        await asyncio.sleep(rng.uniform(0, 1))
        proxy.swallows = True
        silent.set()
        seconds = await asyncio.gather(*ending)
        growing.cancel()
    print(f"ended after {sorted(round(s, 2) for s in seconds)} s")  # noqa: T201
    assert 5 > max(seconds)


async def test_sync_told_to_stop(
    url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, rng: random.Random, tmp_path: Path
) -> None:
    """F3. A pass that is told to stop ends within 5 s, says so, and leaves neither a lease nor half a listing."""
    truth.delay = lambda: rng.choice([0, 0.02, 0.2, 30])

    async def begin_and_stop() -> None:
        env = surroundings(tmp_path, url, truth.provider.url, **PATIENT)
        async with running("sync", env=env) as one:
            await until(lambda: truth.asked(env["OPENAI_API_KEY"]), 60)
            await asyncio.sleep(rng.uniform(0, 0.5))
            async with watching_the_machine() as stood_still:
                asked = time.monotonic()
                one.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
                _, said = await asyncio.wait_for(one.communicate(), 60)
                took = time.monotonic() - asked - stood_still()
            assert (130, "checkpointd: interrupted") == (one.returncode, said.decode().strip())
            assert 5 > took

    async with judge.watching():
        await asyncio.gather(*(begin_and_stop() for _ in range(4)))
    assert 0 == await _leases(sql)
    assert [] == truth.at_once


async def _stop(one: Daemon, number: signal.Signals) -> float:
    """Tell a daemon to stop; returns after how many seconds it had ended, but for waits for a processor."""
    async with watching_the_machine() as stood_still:
        asked, queued = time.monotonic(), _queued(one.process.pid)
        now = queued
        one.process.send_signal(number)
        ending = asyncio.ensure_future(one.process.wait())
        while not ending.done():
            now = max(now, _queued(one.process.pid))
            await asyncio.wait([ending], timeout=0.02)
        assert 0 == await ending
        return time.monotonic() - asked - max(now - queued, stood_still())


def _queued(pid: int) -> float:
    """Return for how many seconds a process was ready to run and had no processor: no fault of its own. Linux knows."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def _leases(sql: asyncpg.Connection) -> int:
    """Count the leases on jobs and on job lists."""
    query = """select (select count(*) from checkpointd.polling where lease_expires_at is not null)
                    + (select count(*) from checkpointd.sources where job_list_lease_expires_at is not null)"""
    return int(await sql.fetchval(query))
