"""F5, F7, F9, F10, F11: the database and the way to it fail in the middle of the work."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.embedded import EmbeddedPostgres
from service.faults.daemons import Daemon, daemon, surroundings, track, until, watching_the_machine
from service.faults.invariants import Judge
from service.faults.proxy import Proxy
from service.faults.truth import Truth
from support.verbs import checkpointd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMIT = b"C\0\0\0\x0bCOMMIT\0"
UPDATE = b"C\0\0\0\rUPDATE "
"""What a server answers to a commit, and to the one statement of quiet polls (of at most nine jobs)."""


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy before the test's database."""
    async with Proxy(url) as opened:
        yield opened


async def _cut_answers(proxy: Proxy, rng: random.Random, _: asyncpg.Connection) -> int:
    """Withhold what a server answers to saves, now and then; the save is done, and nobody knows."""
    rounds = 0
    while rounds < 16 or (proxy.cuts < 5 and rounds < 160):  # a slow machine saves less often
        rounds += 1
        proxy.cut_at = rng.choice([COMMIT, COMMIT, UPDATE])
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        proxy.cut_at = None
        await asyncio.sleep(rng.uniform(0, 0.2))
    return proxy.cuts


async def _cut_anywhere(proxy: Proxy, rng: random.Random, _: asyncpg.Connection) -> int:
    """Reset each connection after some thousand bytes, requests and answers alike."""
    proxy.cut_after = lambda: rng.uniform(1500, 30000)
    proxy.reset()
    await asyncio.sleep(6)
    await until(lambda: proxy.cuts >= 5, 60)
    proxy.cut_after = None
    proxy.reset()
    return proxy.cuts


async def _terminate(_: Proxy, rng: random.Random, sql: asyncpg.Connection) -> int:
    """End the sessions of the daemon, from the server's side."""
    ended = rounds = 0
    while rounds < 30 or (ended < 5 and rounds < 300):
        rounds += 1
        await asyncio.sleep(rng.uniform(0, 0.4))
        ended += await sql.fetchval("""select count(pg_terminate_backend(pid)) from pg_stat_activity
                                       where application_name = 'checkpointd' and datname = current_database()""")
    return ended


@pytest.mark.parametrize("cut", [_cut_answers, _cut_anywhere, _terminate])
async def test_connections_are_cut(
    cut: Callable[[Proxy, random.Random, asyncpg.Connection], Awaitable[int]],
    truth: Truth, judge: Judge, proxy: Proxy, sql: asyncpg.Connection, rng: random.Random, tmp_path: Path,
) -> None:  # fmt: skip
    """F5, F9. Whatever answer of the database never comes: nothing is lost, doubled or half-written."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    async with daemon(surroundings(tmp_path, proxy.url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with judge.watching():
            cuts = await cut(proxy, rng, sql)
        await judge.until_all_is_stored()
        assert one.process.returncode is None
    print(f"{cuts} cuts, {len(truth.listed)} checkpoints, {judge.looks} looks")  # noqa: T201
    assert cuts >= 5
    assert [] == truth.at_once


async def test_black_hole(truth: Truth, judge: Judge, proxy: Proxy, tmp_path: Path) -> None:
    """F7. A database that goes silent without a word is noticed within 20 s, and used again without a restart."""
    async with daemon(surroundings(tmp_path, proxy.url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with judge.watching():
            async with watching_the_machine() as stood_still:
                known, began = len(one.log), time.monotonic()
                proxy.swallows = True
                await one.wait_for("database.unavailable", after=known)
                found = time.monotonic() - began
            proxy.swallows = False
            healed = time.monotonic()
        await judge.until_all_is_stored()
        print(f"found after {found:.1f} s, healed after {time.monotonic() - healed:.1f} s")  # noqa: T201
        assert 20 + stood_still() > found
        await one.wait_for("database.recovered", after=known)
        assert one.process.returncode is None
    assert [] == truth.at_once


async def test_database_stops_at_once(truth: Truth, rng: random.Random, tmp_path: Path) -> None:
    """F10, F11. A server that is away at the start, stops at once and comes back is polled into again within 10 s."""
    server = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    url = await server.start_or_connect()
    try:
        env = surroundings(tmp_path, url, truth.provider.url)
        assert 0 == (await checkpointd("migrate", env=env)).code
        await track(url, truth.jobs)
        await server.stop()
        judge, waits = Judge(url, truth), []
        async with daemon(env) as one:
            await one.wait_for("daemon.waiting")
            async with judge.watching():
                for away in (3.0, 0.0, rng.uniform(0, 2), 4.0):
                    await asyncio.sleep(away)
                    await server.start_or_connect()
                    waits.append(await _until_polled(url))
                    await asyncio.sleep(rng.uniform(0.5, 1.5))
                    assert server._process is not None
                    server._process.send_signal(signal.SIGQUIT)  # pg_ctl stop -m immediate
                    await server._process.wait()
            await server.start_or_connect()
            await judge.until_all_is_stored()
            assert one.process.returncode is None
            _assert_no_flood(one, stops=5)
        print(f"first poll {[round(w, 2) for w in waits]} s after the server was back, {len(one.log)} log lines")  # noqa: T201
        assert 10 > max(waits)
        assert [] == truth.at_once
    finally:
        await server.stop()


async def _until_polled(url: str) -> float:
    """Wait for a complete poll; returns after how many seconds it came, less those in which the machine stood still."""
    async with watching_the_machine() as stood_still:
        began = time.monotonic()
        sql = await asyncpg.connect(url)
        try:
            now = await sql.fetchval("select clock_timestamp()")
            async with asyncio.timeout(60):
                while not await sql.fetchval("select max(last_complete_at) > $1 from fine_tuning.freshness", now):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await sql.close()
        return time.monotonic() - began - stood_still()


def _assert_no_flood(one: Daemon, stops: int) -> None:
    """Each piece of work says once, in few words of a kind, that the database is away."""
    reasons = [json.loads(line)["reason"] for line in one.logged("daemon.waiting")]
    assert 0 < len(set(reasons)) == len(reasons) <= 3, reasons  # away, perhaps not listening yet, perhaps starting up
    works = ("claim", "save", "source", "job list")
    counts = {work: len(one.logged(f'"work": "{work}"')) for work in works}
    # Away, in recovery, and back.
    assert {} == {work: count for work, count in counts.items() if count > 5 * stops}
