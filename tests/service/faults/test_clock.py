"""Clocks that jump by a month, that of the daemon and that of the database, and a daemon that is suspended."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.embedded import EmbeddedPostgres
from service.faults.daemons import (
    FEW_AT_ONCE,
    LEASE,
    POLL_GAP,
    Daemon,
    daemon,
    daemon_env,
    measure_stalls,
    queued_seconds,
    track,
)
from service.faults.invariants import Invariants
from service.faults.play import Play
from service.faults.truth import Truth
from support.harness import until, until_true
from support.verbs import checkpointd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONGEST_GAP = 2 * POLL_GAP + 4.0
"""The most seconds without a request: two poll gaps, one second until the ticker continues by itself, and a margin."""


def _libfaketime() -> Path | None:
    """Find the library that gives a process another time: TEST_LIBFAKETIME, or Debian's package libfaketime."""
    given = os.environ.get("TEST_LIBFAKETIME")
    found = [Path(given)] if given else sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return next((path for path in found if path.exists()), None)


async def _assert_polls_continue(truth: Truth, one: Daemon) -> float:
    """Check that the daemon sends requests for jobs without a long gap. Returns the longest gap in seconds."""
    seconds, queued = LONGEST_GAP + 0.1, queued_seconds(one.process.pid)
    async with measure_stalls() as stalled:
        started = time.monotonic()
        await asyncio.sleep(seconds)  # the time of the measurement
        # The daemon may wait for a processor while this process has one.
        late = max(queued_seconds(one.process.pid) - queued, stalled())
    requests = [r.at for r in truth.requests if r.job and r.at > started]
    gap = max(b - a for a, b in pairwise([started, *requests, started + seconds]))
    assert LONGEST_GAP + late > gap
    return gap


SHIFTS = ("+30s", "-30s", "+1h", "-1h", "+30d", "-30d")
"""By how much a clock steps. Between two of them it steps back to the right time."""

needs_libfaketime = pytest.mark.skipif(
    _libfaketime() is None, reason="no libfaketime here (Debian: apt install libfaketime)"
)


class SteppedClock:
    """A clock that steps, for the processes that are started with the variables `env`."""

    def __init__(self, file: Path, play: Play, rng: random.Random) -> None:
        self._file, self._play, self._rng = file, play, rng
        self.shift = ""
        self.step("+0s")
        self.env = {
            "LD_PRELOAD": str(_libfaketime()),
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
        }

    def step(self, shift: str) -> None:
        """Let the clock differ by `shift` from the right time."""
        self.shift = shift
        self._file.write_text(shift)
        self._file.chmod(0o644)  # the server of PostgreSQL runs as another user

    def steps(self) -> Iterator[str]:
        """Step again and again, as often as the play says: each shift once in random order, then each again."""
        while True:
            for shift in self._rng.sample(SHIFTS, len(SHIFTS)):
                for to in (shift, "+0s"):
                    if self._play.made >= self._play.amount:
                        return
                    self.step(to)
                    self._play.made += 1
                    yield to


@needs_libfaketime
@pytest.mark.play("steps of the daemon's clock", short=4, long=36, round=12)
async def test_daemons_clock_jumps(
    url: str, truth: Truth, invariants: Invariants, play: Play, rng: random.Random, tmp_path: Path
) -> None:
    """If the wall clock jumps forward or back by up to a month, the daemon continues to poll."""
    clock = SteppedClock(tmp_path / "shift", play, rng)
    async with daemon(daemon_env(tmp_path, url, truth.provider.url, **FEW_AT_ONCE, **clock.env)) as one:
        await one.wait_for("poll.changed")
        async with invariants.checked():
            for shift in clock.steps():
                play.recoveries.append(await _assert_polls_continue(truth, one))
                await one.wait_for("poll.changed", after=len(one.log))
                assert _date_of_last_line(one) != time.strftime("%Y-%m-%d", time.gmtime()) or "d" not in shift
        await invariants.until_all_is_stored()
    print(f"no request for {max(play.recoveries):.2f} s at most")  # noqa: T201
    assert [] == truth.overlaps


def _date_of_last_line(one: Daemon) -> str:
    """Return the date of the last line of the log, by the daemon's clock."""
    return one.log[-1].partition('"timestamp": "')[2][:10]


@pytest.fixture
async def stepped(
    truth: Truth, play: Play, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, SteppedClock]]:
    """Yield the URL of a server with a clock that steps, in whose database all jobs are tracked, and the clock."""
    clock = SteppedClock(tmp_path / "shift", play, rng)
    server = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    with monkeypatch.context() as patched:
        for name, value in clock.env.items():
            patched.setenv(name, value)
        url = await server.start_or_connect()
    try:
        assert 0 == (await checkpointd("migrate", env=daemon_env(tmp_path, url, truth.provider.url))).code
        await track(url, truth.jobs)
        yield url, clock
    finally:
        await server.stop()


@needs_libfaketime
@pytest.mark.play("steps of the database's clock", short=4, long=36, round=12)
@pytest.mark.parametrize("rate_limit", [None, 6000], ids=["unlimited", "with a rate limit"])
async def test_databases_clock_steps(
    stepped: tuple[str, SteppedClock],
    truth: Truth,
    play: Play,
    violations: Counter[str],
    tmp_path: Path,
    rate_limit: int | None,
) -> None:
    """If the clock of the database steps forward or back by up to a month, every job is still polled, and at once."""
    url, clock = stepped
    env = daemon_env(tmp_path, url, truth.provider.url, **FEW_AT_ONCE)
    if rate_limit:
        _limit_rate(env, tmp_path / "rate_limit.toml", rate_limit)
    # The changes have the times of this clock. Their order is that of `seq`.
    invariants = Invariants(url, truth, violations, without=["feed out of order"])
    async with daemon(env) as one:
        await invariants.until_all_is_stored()
        for shift in clock.steps():
            stepped_at = time.monotonic()
            for name in truth.jobs:
                truth.grow(name)
            play.recoveries.append(await _assert_polls_continue(truth, one))
            await until(lambda: {*truth.jobs, None} == {r.job for r in truth.requests if r.at > stepped_at})  # noqa: B023
            if shift == "+0s":
                await _until_polled(url)
                await invariants.until_all_is_stored()
            assert one.process.returncode is None
    print(f"no request for {max(play.recoveries):.2f} s at most")  # noqa: T201
    assert [] == truth.overlaps


async def _until_polled(url: str) -> None:
    """Wait until each job was polled since now. The times of earlier polls are those of a clock that was wrong."""
    sql = await asyncpg.connect(url)
    try:
        polled = "select bool_and(last_complete_at between $1 and clock_timestamp()) from fine_tuning.freshness"
        await until_true(sql, polled, datetime.now(UTC))
    finally:
        await sql.close()


def _limit_rate(env: dict[str, str], config: Path, per_minute: int) -> None:
    config.write_text(f"""
[[sources]]
name = "openai"
api_key = "OPENAI_API_KEY"
base_url = "{env.pop("OPENAI_BASE_URL")}"
requests_per_minute = {per_minute}
""")
    env["CHECKPOINTD_CONFIG"] = str(config)


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
                await _assert_polls_continue(truth, one)
        await invariants.until_all_is_stored()
        assert one.process.returncode is None
    assert [] == truth.overlaps
