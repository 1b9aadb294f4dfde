"""F29, F31: clocks that jump by a month, the daemon's and the database's, and a daemon that stands still."""

import asyncio
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import INTERVAL, LEASE, Daemon, daemon, surroundings, until, watching_the_machine
from service.faults.invariants import Judge
from service.faults.truth import Truth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 2 * INTERVAL + 4.0
"""Two intervals, what the metronome waits before it helps itself, at least a second, and as much for a slow machine."""


def _libfaketime() -> Path | None:
    """Find the library that tells a process another time: Debian's package libfaketime, or TEST_LIBFAKETIME."""
    given = os.environ.get("TEST_LIBFAKETIME")
    found = [Path(given)] if given else sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    return next((path for path in found if path.exists()), None)


async def _longest_gap(truth: Truth, seconds: float) -> float:
    """Return how long at most, from now on for so many seconds, no job was asked for."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    times = [began, *(r.at for r in truth.requests if r.job and r.at > began), began + seconds]
    return max(b - a for a, b in pairwise(times))


@pytest.mark.skipif(_libfaketime() is None, reason="no libfaketime here (Debian: apt install libfaketime)")
async def test_daemons_clock_jumps(url: str, truth: Truth, judge: Judge, tmp_path: Path) -> None:
    """F29. The wall clock jumps a month on, and a month and more back: the daemon goes on polling."""
    shift = tmp_path / "shift"
    shift.write_text("+0d")
    env = surroundings(tmp_path, url, truth.provider.url, LD_PRELOAD=str(_libfaketime()), DONT_FAKE_MONOTONIC="1",
                       FAKETIME_TIMESTAMP_FILE=str(shift), FAKETIME_NO_CACHE="1")  # fmt: skip
    async with daemon(env) as one:
        await one.wait_for("poll.changed")
        async with judge.watching():
            for days in ("+30d", "+0d", "-30d"):
                shift.write_text(days)
                async with watching_the_machine() as stood_still:
                    gap = await _longest_gap(truth, PATIENCE + 0.1)
                print(f"{days}: no request for {gap:.2f} s at most")  # noqa: T201
                assert PATIENCE + stood_still() > gap
                said = len(one.log)
                await one.wait_for("poll.changed", after=said)
                assert _day(one) != time.strftime("%Y-%m-%d", time.gmtime()) or days == "+0d"
        await judge.until_all_is_stored()


def _day(one: Daemon) -> str:
    """Return the day of the last line of the log, by the daemon's clock."""
    return one.log[-1].partition('"timestamp": "')[2][:10]


@pytest.mark.parametrize("days", [30, -30])
async def test_databases_clock_jumps(
    url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, tmp_path: Path, days: int
) -> None:
    """F29. The database's clock jumps by a month, as if all its times jumped the other way: every job is polled on."""
    columns = await sql.fetch("""
        select table_name as t, string_agg(format('%1$I = %1$I - $1', column_name), ', ') as moved
        from information_schema.columns where table_schema = 'checkpointd' and data_type = 'timestamp with time zone'
        and table_name in ('polling', 'sources') group by table_name""")
    assert {"polling", "sources"} == {row["t"] for row in columns}
    async with daemon(surroundings(tmp_path, url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        for name in truth.jobs:
            truth.grow(name)
        async with sql.transaction():
            for row in columns:
                moved = row["moved"].replace("$1", f"interval '{days} d'")
                await sql.execute(f"update checkpointd.{row['t']} set {moved}")
        began = time.monotonic()
        await until(lambda: {*truth.jobs, None} == {r.job for r in truth.requests if r.at > began}, 60)
        # Until a poll is saved, its job has times of another month, of which the judge knows nothing.
        today = """select bool_and(abs(extract(epoch from now() - last_complete_at)) < 86400
                   and abs(extract(epoch from now() - last_attempt_at)) < 86400) from fine_tuning.freshness"""
        async with asyncio.timeout(60):
            while not await sql.fetchval(today):  # noqa: ASYNC110  # another process writes, and gives no event
                await asyncio.sleep(0.02)
        await judge.until_all_is_stored()
        assert one.process.returncode is None


async def test_loop_stands_still(url: str, truth: Truth, judge: Judge, rng: random.Random, tmp_path: Path) -> None:
    """F31. A daemon that stands still, within its lease and beyond it, polls on at once when it goes on."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    async with daemon(surroundings(tmp_path, url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with judge.watching():
            for seconds in (0.5 * LEASE, 1.5 * LEASE):
                one.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                one.process.send_signal(signal.SIGCONT)
                async with watching_the_machine() as stood_still:
                    gap = await _longest_gap(truth, PATIENCE + 0.1)
                assert PATIENCE + stood_still() > gap
        await judge.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.at_once
