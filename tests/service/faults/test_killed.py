"""Daemons are killed with -9, and stopped by signals, at any moment of their work."""

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import (
    LEASE,
    PATIENT,
    Daemon,
    ForkServer,
    daemon,
    daemon_env,
    measure_stalls,
    queued_seconds,
    track,
)
from service.faults.invariants import Invariants
from service.faults.play import Play
from service.faults.proxy import Proxy
from service.faults.truth import Truth
from support.harness import until
from support.provider import Provider
from support.verbs import get, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG_TIMEOUTS = {"CHECKPOINTD_LEASE_SECONDS": "60", "CHECKPOINTD_REQUEST_TIMEOUT_SECONDS": "60"}
"""With these settings a daemon waits for a slow provider. The drain time is the default."""

STOP_SECONDS = 5
"""The most seconds from a signal to the end of the process."""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kills through a pidfd, which only Linux has")
@pytest.mark.play("kills", short=60, long=10_000, round=250)
async def test_kill_9_anywhere(
    url: str, provider: Provider, play: Play, rng: random.Random, violations: Counter[str], tmp_path: Path
) -> None:
    """Two replicas are killed again and again, 5 to 300 ms after the first request or listing: nothing is lost."""
    # The jobs of a killed daemon wait until its leases expire. With many jobs, others are due meanwhile.
    truth = Truth(provider, 40, rng)
    await track(url, truth.jobs)
    invariants = Invariants(url, truth, violations)
    truth.delay = lambda: rng.uniform(0, 0.01)
    killed_in_listing = 0
    async with ForkServer(tmp_path / "log") as fork_server, invariants.checked(0.2):

        async def start_and_kill() -> bool:
            """Return whether the daemon was killed during a listing."""
            env = daemon_env(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="2")
            key = env["OPENAI_API_KEY"]
            pid = await fork_server.start(env)

            def has_begun() -> bool:
                return truth.request_count(key) > 0

            def has_listed() -> bool:
                return any(listing.key == key for listing in truth.complete[-20:])

            with suppress(TimeoutError):
                await until(rng.choice([has_begun, has_listed]), 5 * LEASE)
            await asyncio.sleep(rng.uniform(0.005, 0.3))  # the life of the daemon
            await fork_server.kill(pid)
            return key in truth.leaders().values()

        async def keep_killing() -> None:
            nonlocal killed_in_listing
            while play.made < play.amount or killed_in_listing < 10:
                play.made += 1
                killed_in_listing += await start_and_kill()

        await asyncio.gather(keep_killing(), keep_killing())
    async with daemon(daemon_env(tmp_path, url, truth.provider.url, **PATIENT)):
        play.recoveries.append(await invariants.until_all_is_stored())
    print(f"{killed_in_listing} of {play.made} kills during a listing")  # noqa: T201
    print(f"{len(truth.listed)} checkpoints, {invariants.checks} checks")  # noqa: T201
    assert [] == truth.overlaps


async def test_stopped_anywhere(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, rng: random.Random, tmp_path: Path
) -> None:
    """Replicas end within 5 s of SIGTERM or SIGINT, however slow the provider is, with status 0 and without a lease."""
    truth.delay = lambda: rng.choice([0, 0, 0, 0.05, 0.9, 30])

    async def start_and_stop() -> float:
        async with daemon(daemon_env(tmp_path, url, truth.provider.url, **LONG_TIMEOUTS)) as one:
            await one.wait_for("daemon.ready")
            await asyncio.sleep(rng.uniform(0, 2))  # so that the signal comes at any moment
            return await _stop(one, rng.choice([signal.SIGTERM, signal.SIGINT]))

    async with invariants.checked():
        seconds = await asyncio.gather(*(start_and_stop() for _ in range(4)))
    assert 0 == await _count_leases(sql)
    truth.delay = lambda: 0.0
    async with daemon(daemon_env(tmp_path, url, truth.provider.url)):
        await invariants.until_all_is_stored()
    print(f"ended after {sorted(round(s, 2) for s in seconds)} s")  # noqa: T201
    assert STOP_SECONDS > max(seconds)
    assert [] == truth.overlaps


@pytest.mark.parametrize("working", [True, False], ids=["working", "starting"])
@pytest.mark.usefixtures("invariants")
async def test_stopped_while_nothing_answers(
    url: str, truth: Truth, rng: random.Random, tmp_path: Path, *, working: bool
) -> None:
    """Replicas end within 5 s of SIGTERM, even if nothing answers them and a client waits for their status page."""
    async with Proxy(url) as proxy:
        proxy.is_black_hole = not working
        ready, is_silent = asyncio.Barrier(5), asyncio.Event()

        async def start_and_stop() -> float:
            async with daemon(daemon_env(tmp_path, proxy.url, truth.provider.url, **LONG_TIMEOUTS)) as one:
                await one.wait_for("daemon.ready" if working else "web.listening")
                port = int(re.findall(r"127\.0\.0\.1:(\d+)", one.logged("web.listening")[0])[0])
                await ready.wait()
                await is_silent.wait()
                page = asyncio.create_task(get(port, "/"))
                await asyncio.sleep(rng.uniform(0, 3))  # so that the signal comes at any moment
                seconds = await _stop(one, signal.SIGTERM)
                await asyncio.gather(page, return_exceptions=True)
                return seconds

        growing = asyncio.create_task(truth.keep_growing(0.2))
        stopping = [asyncio.create_task(start_and_stop()) for _ in range(4)]
        await ready.wait()
        truth.delay = lambda: rng.choice([0, 30])
        await asyncio.sleep(rng.uniform(0, 1))  # so that the database falls silent at any moment
        proxy.is_black_hole = True
        is_silent.set()
        seconds = await asyncio.gather(*stopping)
        growing.cancel()
    print(f"ended after {sorted(round(s, 2) for s in seconds)} s")  # noqa: T201
    assert STOP_SECONDS > max(seconds)


async def test_sync_is_stopped(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, rng: random.Random, tmp_path: Path
) -> None:
    """`sync` ends within 5 s of a signal, prints that it was interrupted, and leaves no lease and no half listing."""
    truth.delay = lambda: rng.choice([0, 0.02, 0.2, 30])

    async def start_and_stop() -> None:
        env = daemon_env(tmp_path, url, truth.provider.url, **LONG_TIMEOUTS)
        async with running("sync", env=env) as process:
            await until(lambda: truth.request_count(env["OPENAI_API_KEY"]))
            await asyncio.sleep(rng.uniform(0, 0.5))  # so that the signal comes at any moment
            async with measure_stalls() as stalled:
                signalled = time.monotonic()
                process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
                _, err = await asyncio.wait_for(process.communicate(), 60)
                seconds = time.monotonic() - signalled - stalled()
            assert (130, "checkpointd: interrupted") == (process.returncode, err.decode().strip())
            assert STOP_SECONDS > seconds

    async with invariants.checked():
        await asyncio.gather(*(start_and_stop() for _ in range(4)))
    assert 0 == await _count_leases(sql)
    assert [] == truth.overlaps


async def _stop(one: Daemon, number: signal.Signals) -> float:
    """Stop a daemon. Returns the seconds until it ended, without those in which it waited for a processor."""
    async with measure_stalls() as stalled:
        signalled, queued_before = time.monotonic(), queued_seconds(one.process.pid)
        queued = queued_before
        one.process.send_signal(number)
        ending = asyncio.ensure_future(one.process.wait())
        while not ending.done():
            queued = max(queued, queued_seconds(one.process.pid))
            await asyncio.wait([ending], timeout=0.02)
        assert 0 == await ending
        return time.monotonic() - signalled - max(queued - queued_before, stalled())


async def _count_leases(sql: asyncpg.Connection) -> int:
    """Count the leases on jobs and on job lists."""
    query = """
        select (select count(*) from checkpointd.polling where lease_expires_at is not null)
          + (select count(*) from checkpointd.sources where job_list_lease_expires_at is not null)"""
    return int(await sql.fetchval(query))
