"""The database, or the connection to it, fails while the daemon works."""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.connection import STATEMENT_SECONDS
from checkpointd.postgres.embedded import EmbeddedPostgres
from service.faults.daemons import FEW_AT_ONCE, LEASE, Daemon, daemon, daemon_env, measure_stalls, track
from service.faults.invariants import Invariants
from service.faults.play import Play
from service.faults.proxy import Proxy
from service.faults.truth import Truth
from support.harness import until, until_true
from support.verbs import checkpointd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAVED = b"C\0\0\0\x09CALL\0"
"""The answer of a server to a save."""


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of the test's database."""
    async with Proxy(url) as opened:
        yield opened


@asynccontextmanager
async def _polling_through(
    proxy: Proxy, invariants: Invariants, truth: Truth, play: Play, home: Path
) -> AsyncIterator[None]:
    """Let a daemon poll through a proxy during the block. Nothing may be lost, duplicated or half-written."""
    truth.delay = lambda: truth.rng.uniform(0, 0.02)
    async with daemon(daemon_env(home, proxy.url, truth.provider.url, **FEW_AT_ONCE)) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            yield
        play.recoveries.append(await invariants.until_all_is_stored())
        assert one.process.returncode is None
    print(f"{len(truth.listed)} checkpoints, {invariants.checks} checks")  # noqa: T201
    assert [] == truth.overlaps


@pytest.mark.play("lost answers", short=8, long=200, round=40)
async def test_answers_are_lost(
    truth: Truth, invariants: Invariants, proxy: Proxy, play: Play, rng: random.Random, tmp_path: Path
) -> None:
    """If the answer to a save is lost, the save is done, and the daemon cannot know it: no harm is done."""
    async with _polling_through(proxy, invariants, truth, play, tmp_path):
        while proxy.cuts < play.amount:
            proxy.cut_at = SAVED
            await asyncio.sleep(rng.uniform(0.1, 0.6))  # in this time answers are cut
            proxy.cut_at = None
            await asyncio.sleep(rng.uniform(0, 0.2))  # in this time the daemon recovers
    play.made = proxy.cuts


@pytest.mark.play("cut connections", short=8, long=300, round=100)
async def test_connections_are_cut(
    truth: Truth, invariants: Invariants, proxy: Proxy, play: Play, rng: random.Random, tmp_path: Path
) -> None:
    """If each connection is reset after some thousand bytes of requests and answers, no harm is done."""
    async with _polling_through(proxy, invariants, truth, play, tmp_path):
        proxy.cut_after = lambda: rng.uniform(1500, 30000)
        proxy.reset()
        await until(lambda: proxy.cuts >= play.amount, 600)
        proxy.cut_after = None
        proxy.reset()
    play.made = proxy.cuts


@pytest.mark.play("terminated backends", short=15, long=1000, round=100)
async def test_backends_are_terminated(
    truth: Truth,
    invariants: Invariants,
    proxy: Proxy,
    play: Play,
    sql: asyncpg.Connection,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    """If the sessions of the daemon are ended on the server at any moment, no harm is done."""
    terminate = """
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = 'checkpointd' and datname = current_database()"""
    async with _polling_through(proxy, invariants, truth, play, tmp_path):
        while play.made < play.amount:
            await asyncio.sleep(rng.uniform(0, 0.4))  # in this time the daemon connects again and works
            play.made += await sql.fetchval(terminate)


@pytest.mark.play("late answers", short=4, long=200, round=20)
async def test_answers_are_late(
    url: str, truth: Truth, invariants: Invariants, play: Play, rng: random.Random, tmp_path: Path
) -> None:
    """If the answer to a save comes late, or after the daemon has given up, no harm is done."""

    def is_late(chunk: bytes) -> float:
        if SAVED not in chunk or play.made >= play.amount or rng.random() < 0.5:
            return 0.0
        play.made += 1
        limit = STATEMENT_SECONDS
        return rng.choice([rng.uniform(LEASE, limit), rng.uniform(limit, limit + 5)])

    truth.delay = lambda: rng.uniform(0, 0.02)
    # Four replicas that poll all the time would use up the time of a lease.
    settings = {f"CHECKPOINTD_{name}": "1" for name in ("CONCURRENCY", "MIN_POLL_SECONDS", "MAX_POLL_SECONDS")}
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(4):
            proxy = await stack.enter_async_context(Proxy(url))
            env = daemon_env(tmp_path, proxy.url, truth.provider.url, **settings)
            replicas.append(await stack.enter_async_context(daemon(env)))
            await replicas[-1].wait_for("daemon.ready")
            proxy.latency = is_late
        async with invariants.checked():
            await until(lambda: play.made >= play.amount, 600)
            await asyncio.sleep(STATEMENT_SECONDS)  # until the last answers have come, or nobody waits for them
        play.recoveries.append(await invariants.until_all_is_stored())
        assert [None] * 4 == [replica.process.returncode for replica in replicas]
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


@pytest.mark.play("immediate restarts", short=4, long=100, round=10)
async def test_database_crashes(
    truth: Truth, play: Play, rng: random.Random, violations: Counter[str], tmp_path: Path
) -> None:
    """A server that is down at the start, and crashes again and again, is polled into within 10 s after it is back."""
    folder = tmp_path / "postgres"
    server = EmbeddedPostgres(folder, sync=False)
    url = await server.start_or_connect()
    try:
        env = daemon_env(tmp_path, url, truth.provider.url, **FEW_AT_ONCE)
        assert 0 == (await checkpointd("migrate", env=env)).code
        await track(url, truth.jobs)
        await server.stop()
        invariants = Invariants(url, truth, violations)
        async with daemon(env) as one:
            await one.wait_for("daemon.waiting")
            async with invariants.checked():
                while play.made < play.amount:
                    await asyncio.sleep(rng.choice([0, rng.uniform(0, 2), 3, 4]))  # in this time the server is down
                    await server.start_or_connect()
                    play.recoveries.append(await _until_polled(url))
                    await asyncio.sleep(rng.uniform(0, 1.5))  # in this time the daemon polls
                    await _crash(folder)
                    play.made += 1
            await server.start_or_connect()
            await invariants.until_all_is_stored()
            assert one.process.returncode is None
            _assert_few_log_lines(one, crashes=play.made + 1)
        print(f"{len(one.log)} log lines")  # noqa: T201
        assert 10 > max(play.recoveries)
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
