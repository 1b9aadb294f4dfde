"""The database, or the connection to it, fails while the daemon works."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.embedded import EmbeddedPostgres
from service.faults.daemons import Daemon, daemon, daemon_env, measure_stalls, track
from service.faults.invariants import Invariants
from service.faults.proxy import Proxy
from service.faults.truth import Truth
from support.harness import until, until_true
from support.verbs import checkpointd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMIT = b"C\0\0\0\x0bCOMMIT\0"
UPDATE = b"C\0\0\0\rUPDATE "
"""The answers of a server to a commit, and to the single statement of quiet polls (of at most nine jobs)."""

Cut = Callable[[Proxy, random.Random, asyncpg.Connection], Awaitable[int]]
"""Cuts connections again and again. Returns how often."""


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of the test's database."""
    async with Proxy(url) as opened:
        yield opened


async def _cut_answers(proxy: Proxy, rng: random.Random, _: asyncpg.Connection) -> int:
    """Now and then drop the answer to a save. The save is done, and the daemon cannot know it."""
    rounds = 0
    while rounds < 16 or (proxy.cuts < 5 and rounds < 160):  # a slow machine saves less often
        rounds += 1
        proxy.cut_at = rng.choice([COMMIT, COMMIT, UPDATE])
        await asyncio.sleep(rng.uniform(0.1, 0.6))  # in this time answers are cut
        proxy.cut_at = None
        await asyncio.sleep(rng.uniform(0, 0.2))  # in this time the daemon recovers
    return proxy.cuts


async def _cut_anywhere(proxy: Proxy, rng: random.Random, _: asyncpg.Connection) -> int:
    """Reset each connection after some thousand bytes of requests and answers."""
    proxy.cut_after = lambda: rng.uniform(1500, 30000)
    proxy.reset()
    await asyncio.sleep(6)  # in this time connections are cut
    await until(lambda: proxy.cuts >= 5)
    proxy.cut_after = None
    proxy.reset()
    return proxy.cuts


async def _terminate(_: Proxy, rng: random.Random, sql: asyncpg.Connection) -> int:
    """End the sessions of the daemon on the server."""
    terminate = """
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = 'checkpointd' and datname = current_database()"""
    ended = rounds = 0
    while rounds < 30 or (ended < 5 and rounds < 300):
        rounds += 1
        await asyncio.sleep(rng.uniform(0, 0.4))  # in this time the daemon connects again and works
        ended += await sql.fetchval(terminate)
    return ended


@pytest.mark.parametrize("cut", [_cut_answers, _cut_anywhere, _terminate])
async def test_connections_are_cut(
    cut: Cut,
    truth: Truth,
    invariants: Invariants,
    proxy: Proxy,
    sql: asyncpg.Connection,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    """Whichever answer of the database is lost, nothing is lost, duplicated or half-written."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    async with daemon(daemon_env(tmp_path, proxy.url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            cuts = await cut(proxy, rng, sql)
        await invariants.until_all_is_stored()
        assert one.process.returncode is None
    print(f"{cuts} cuts, {len(truth.listed)} checkpoints, {invariants.checks} checks")  # noqa: T201
    assert cuts >= 5
    assert [] == truth.overlaps


async def test_black_hole(truth: Truth, invariants: Invariants, proxy: Proxy, tmp_path: Path) -> None:
    """A database that stops answering without closing is noticed within 20 s, and used again without a restart."""
    async with daemon(daemon_env(tmp_path, proxy.url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            async with measure_stalls() as stalled:
                lines, started = len(one.log), time.monotonic()
                proxy.is_black_hole = True
                await one.wait_for("database.unavailable", after=lines)
                noticed = time.monotonic() - started
            proxy.is_black_hole = False
            healed = time.monotonic()
        await invariants.until_all_is_stored()
        print(f"noticed after {noticed:.1f} s, healed after {time.monotonic() - healed:.1f} s")  # noqa: T201
        assert 20 + stalled() > noticed
        await one.wait_for("database.recovered", after=lines)
        assert one.process.returncode is None
    assert [] == truth.overlaps


async def test_database_crashes(truth: Truth, rng: random.Random, tmp_path: Path) -> None:
    """A server that is down at the start, and crashes again and again, is polled into within 10 s after it is back."""
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder, sync=False)
    url = await server.start_or_connect()
    try:
        env = daemon_env(tmp_path, url, truth.provider.url)
        assert 0 == (await checkpointd("migrate", env=env)).code
        await track(url, truth.jobs)
        await server.stop()
        invariants, waits = Invariants(url, truth), []
        async with daemon(env) as one:
            await one.wait_for("daemon.waiting")
            async with invariants.checked():
                for down in (3.0, 0.0, rng.uniform(0, 2), 4.0):
                    await asyncio.sleep(down)  # in this time the server is down
                    await server.start_or_connect()
                    waits.append(await _until_polled(url))
                    await asyncio.sleep(rng.uniform(0.5, 1.5))  # in this time the daemon polls
                    await _crash(folder)
            await server.start_or_connect()
            await invariants.until_all_is_stored()
            assert one.process.returncode is None
            _assert_few_log_lines(one, crashes=5)
        print(f"first poll {[round(w, 2) for w in waits]} s after the server was back, {len(one.log)} log lines")  # noqa: T201
        assert 10 > max(waits)
        assert [] == truth.overlaps
    finally:
        await server.stop()


async def _crash(folder: Path) -> None:
    """Stop a server without a shutdown, as `pg_ctl stop -m immediate` does."""
    pid_file = folder / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGQUIT)
    await until(lambda: not pid_file.exists())


async def _until_polled(url: str) -> float:
    """Wait for a complete poll. Returns the seconds until it came, without those in which the machine stood still."""
    is_polled = "select max(last_complete_at) > $1 from fine_tuning.freshness"
    async with measure_stalls() as stalled:
        started = time.monotonic()
        sql = await asyncpg.connect(url)
        try:
            await until_true(sql, is_polled, await sql.fetchval("select clock_timestamp()"))
        finally:
            await sql.close()
        return time.monotonic() - started - stalled()


def _assert_few_log_lines(one: Daemon, crashes: int) -> None:
    """Check that each unit of work logs the lost database and its recovery once, not at each attempt."""
    reasons = [json.loads(line)["reason"] for line in one.logged("daemon.waiting")]
    # The server is down; it may then not listen yet, and then it may be starting up.
    assert 0 < len(set(reasons)) == len(reasons) <= 3, reasons
    units = ("claim", "save", "source", "job list")
    counts = {unit: len(one.logged(f'"work": "{unit}"')) for unit in units}
    # For each crash: the server is down, it recovers, and it is back.
    assert {} == {unit: count for unit, count in counts.items() if count > 5 * crashes}
