"""Clocks that jump by a month, that of the daemon and that of the database, and a daemon that is suspended."""

import asyncio
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import LEASE, POLL_GAP, Daemon, daemon, daemon_env, measure_stalls
from service.faults.invariants import Invariants
from service.faults.truth import Truth
from support.harness import until, until_true

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONGEST_GAP = 2 * POLL_GAP + 4.0
"""The most seconds without a request: two poll gaps, one second until the ticker continues by itself, and a margin."""


def _libfaketime() -> Path | None:
    """Find the library that gives a process another time: TEST_LIBFAKETIME, or Debian's package libfaketime."""
    given = os.environ.get("TEST_LIBFAKETIME")
    found = [Path(given)] if given else sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    return next((path for path in found if path.exists()), None)


async def _assert_polls_continue(truth: Truth) -> float:
    """Check that the daemon sends requests for jobs without a long gap. Returns the longest gap in seconds."""
    seconds = LONGEST_GAP + 0.1
    async with measure_stalls() as stalled:
        started = time.monotonic()
        await asyncio.sleep(seconds)  # the time of the measurement
        requests = [r.at for r in truth.requests if r.job and r.at > started]
        gap = max(b - a for a, b in pairwise([started, *requests, started + seconds]))
        assert LONGEST_GAP + stalled() > gap
    return gap


@pytest.mark.skipif(_libfaketime() is None, reason="no libfaketime here (Debian: apt install libfaketime)")
async def test_daemons_clock_jumps(url: str, truth: Truth, invariants: Invariants, tmp_path: Path) -> None:
    """If the wall clock jumps forward by a month, and back by more than a month, the daemon continues to poll."""
    shift = tmp_path / "shift"
    shift.write_text("+0d")
    env = daemon_env(
        tmp_path,
        url,
        truth.provider.url,
        LD_PRELOAD=str(_libfaketime()),
        DONT_FAKE_MONOTONIC="1",
        FAKETIME_TIMESTAMP_FILE=str(shift),
        FAKETIME_NO_CACHE="1",
    )
    async with daemon(env) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            for days in ("+30d", "+0d", "-30d"):
                shift.write_text(days)
                gap = await _assert_polls_continue(truth)
                print(f"{days}: no request for {gap:.2f} s at most")  # noqa: T201
                await one.wait_for("poll.changed", after=len(one.log))
                assert _date_of_last_line(one) != time.strftime("%Y-%m-%d", time.gmtime()) or days == "+0d"
        await invariants.until_all_is_stored()


def _date_of_last_line(one: Daemon) -> str:
    """Return the date of the last line of the log, by the daemon's clock."""
    return one.log[-1].partition('"timestamp": "')[2][:10]


@pytest.mark.parametrize("days", [30, -30])
async def test_databases_clock_jumps(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, tmp_path: Path, days: int
) -> None:
    """If the database's clock jumps by a month, every job is still polled.

    The clock cannot be set here. Instead, all its times in the tables are moved the other way.
    """
    tables = await sql.fetch("""
        select table_name as name, string_agg(format('%1$I = %1$I - $1', column_name), ', ') as assignments
        from information_schema.columns where table_schema = 'checkpointd' and data_type = 'timestamp with time zone'
        and table_name in ('polling', 'sources') group by table_name""")
    assert {"polling", "sources"} == {table["name"] for table in tables}
    async with daemon(daemon_env(tmp_path, url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        for name in truth.jobs:
            truth.grow(name)
        async with sql.transaction():
            for table in tables:
                assignments = table["assignments"].replace("$1", f"interval '{days} d'")
                await sql.execute(f"update checkpointd.{table['name']} set {assignments}")
        jumped = time.monotonic()
        await until(lambda: {*truth.jobs, None} == {r.job for r in truth.requests if r.at > jumped})
        # Until its next save, a job has times of another month, which the invariants do not allow.
        all_saved = """
            select bool_and(abs(extract(epoch from now() - last_complete_at)) < 86400
              and abs(extract(epoch from now() - last_attempt_at)) < 86400) from fine_tuning.freshness"""
        await until_true(sql, all_saved)
        await invariants.until_all_is_stored()
        assert one.process.returncode is None


async def test_daemon_is_suspended(
    url: str, truth: Truth, invariants: Invariants, rng: random.Random, tmp_path: Path
) -> None:
    """A daemon that is suspended, for less than its lease and for longer, continues to poll at once afterwards."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    async with daemon(daemon_env(tmp_path, url, truth.provider.url)) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            for seconds in (0.5 * LEASE, 1.5 * LEASE):
                one.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)  # the time of the suspension
                one.process.send_signal(signal.SIGCONT)
                await _assert_polls_continue(truth)
        await invariants.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.overlaps
