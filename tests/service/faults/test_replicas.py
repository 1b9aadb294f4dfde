"""What replicas promise: one poll of a job at a time, no late write, a takeover of jobs, and one rate limit for all."""

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import LEASE, POLL_GAP, daemon, daemon_env, measure_stalls
from service.faults.invariants import Invariants
from service.faults.proxy import Proxy
from service.faults.truth import Overlap, Truth
from support.harness import until
from support.provider import error, held, page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LATE = 1.0
"""By how many seconds a request may arrive later than it was allowed, on a busy machine."""

LEASE_LEFT = """
    select extract(epoch from p.lease_expires_at - clock_timestamp())::float8
    from checkpointd.polling p join checkpointd.jobs j on j.key = p.job where j.id = $1"""


async def test_suspended_daemon_writes_nothing_late(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A daemon that is suspended past its lease writes nothing of that poll, logs it once, and continues to work."""
    name = truth.jobs[0]
    stale, reached, go_on = held(page([{**truth.item(name), "id": "ftckpt_stale"}]))
    async with AsyncExitStack() as stack:
        env = daemon_env(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="1")
        suspended = await stack.enter_async_context(daemon(env))
        await suspended.wait_for("poll.changed")
        truth.faults[name] = stale
        await asyncio.wait_for(reached.wait(), 30)
        suspended.process.send_signal(signal.SIGSTOP)
        suspended_at = time.monotonic()
        lease_left = await sql.fetchval(LEASE_LEFT, name)
        del truth.faults[name]
        # With these settings no poll of the other daemon fails, even on a slow machine.
        env = daemon_env(
            tmp_path,
            url,
            truth.provider.url,
            CHECKPOINTD_LEASE_SECONDS="60",
            CHECKPOINTD_REQUEST_TIMEOUT_SECONDS="30",
        )
        other = await stack.enter_async_context(daemon(env))
        await until(lambda: any(r.key == other.key and r.job == name for r in truth.requests))
        assert time.monotonic() - suspended_at > lease_left
        go_on.set()
        await asyncio.sleep(0.2)  # until the stale response has arrived in the socket of the suspended daemon
        lines, requests = len(suspended.log), truth.request_count(suspended.key)
        continued_at = await sql.fetchval("select clock_timestamp()")
        suspended.process.send_signal(signal.SIGCONT)
        await until(lambda: any(name in line and "its lease was lost" in line for line in suspended.log[lines:]))
        await until(lambda: truth.request_count(suspended.key) >= requests + 5)
        first, *later = [line for line in suspended.log[lines:] if name in line and "repeated" not in line]
        assert "its lease was lost" in first
        assert [] == [line for line in later if "its lease was lost" in line]
        # A late write could be a failed poll (its request timed out) or the stale checkpoint (see below).
        late_polls = """
            select count(*) from fine_tuning.polls
            where fine_tuning_job_id = $1 and outcome <> 'changed' and last_at > $2"""
        assert 0 == await sql.fetchval(late_polls, name, continued_at)
        truth.grow(name)
        await invariants.until_all_is_stored()
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where id = 'ftckpt_stale'")


async def test_suspended_at_random(
    url: str, truth: Truth, invariants: Invariants, rng: random.Random, tmp_path: Path
) -> None:
    """Of three replicas, with late answers, one after the other is suspended past its lease: the invariants hold."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    suspensions: list[tuple[str, float, float]] = []
    """The key of a daemon, and from when to when it may send late requests."""
    async with Proxy(url) as proxy, AsyncExitStack() as stack:
        proxy.latency = lambda chunk: rng.uniform(0, 0.4) if b"CALL" in chunk else 0.0  # the answers to saves
        replicas = [
            await stack.enter_async_context(daemon(daemon_env(tmp_path, proxy.url, truth.provider.url)))
            for _ in range(3)
        ]
        for replica in replicas:
            await replica.wait_for("daemon.ready")
        async with invariants.checked(0.05):
            for _ in range(3):
                one = rng.choice(replicas)
                suspended_at = time.monotonic()
                one.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(LEASE, LEASE + 0.5))  # the time of the suspension
                one.process.send_signal(signal.SIGCONT)
                suspensions.append((one.key, suspended_at, time.monotonic() + LEASE))
                await asyncio.sleep(rng.uniform(0, 0.5))  # the time until the next one
        proxy.latency = None
        await invariants.until_all_is_stored()

    def is_of_suspended(overlap: Overlap) -> bool:
        """Return whether a daemon sent it that was suspended, before it noticed that its poll had to end."""
        keys = {overlap.key, overlap.other}
        return any(key in keys and start < overlap.at < end for key, start, end in suspensions)

    assert [] == [overlap for overlap in truth.overlaps if not is_of_suspended(overlap)]


async def test_takeover(url: str, truth: Truth, invariants: Invariants, rng: random.Random, tmp_path: Path) -> None:
    """The jobs of a killed replica are polled by another one within a lease and a poll gap; no job is polled by two."""
    truth.delay = lambda: rng.uniform(0, 0.03)
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                daemon(daemon_env(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="4"))
            )
            for _ in range(2)
        ]
        async with invariants.checked():
            await until(lambda: {first.key, second.key} <= set(truth.leaders().values()))
            orphans = [name for name, key in truth.leaders().items() if key == first.key]
            first.process.kill()
            killed = time.monotonic()
            async with measure_stalls() as stalled:
                await asyncio.sleep(2 * LEASE + POLL_GAP)  # the time in which all of them should be polled
                await until(lambda: set(truth.jobs) == {r.job for r in truth.requests if r.job and r.at > killed})
        waits = {
            name: min(r.at - killed for r in truth.requests if r.job == name and r.at > killed) for name in truth.jobs
        }
        assert orphans
        # A lease and a poll gap, the ticker's interval, and the time until a slot is free: less than two leases.
        assert 2 * LEASE - POLL_GAP + stalled() > max(waits.values())
        await invariants.until_all_is_stored()
    print(f"{len(orphans)} orphans, all polled within {max(waits.values()):.2f} s")  # noqa: T201
    assert [] == truth.overlaps


async def test_refused_key(
    url: str, truth: Truth, invariants: Invariants, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A replica whose key is refused sends no more requests; the other one keeps all jobs and the job list fresh."""
    async with AsyncExitStack() as stack:
        bad_env, good_env = (daemon_env(tmp_path, url, truth.provider.url) for _ in range(2))
        truth.refused.add(bad_env["OPENAI_API_KEY"])
        good = await stack.enter_async_context(daemon(good_env))
        await good.wait_for("poll.changed")
        bad = await stack.enter_async_context(daemon(bad_env))
        await bad.wait_for("daemon.ready")
        await bad.wait_for("source.refused")
        await asyncio.sleep(2)  # until its running polls have ended
        refused, started = truth.request_count(bad.key), time.monotonic()
        async with invariants.checked(), measure_stalls() as stalled:
            await asyncio.sleep(6)  # the time of the measurement
            ended, late = time.monotonic(), stalled()
        assert refused == truth.request_count(bad.key)
        # Up to 16 were running when the first one was refused; and one was for the job list.
        assert 17 >= refused
        starts = [r for r in truth.requests if r.key == good.key and started < r.at < ended and r.after is None]
        gaps = {
            name: max(b - a for a, b in pairwise([started, *(r.at for r in starts if r.job == name), ended]))
            for name in (*truth.jobs, None)
        }
        gap_of_list = gaps.pop(None)
        print(f"{refused} refused; longest gap of a job {max(gaps.values()):.2f} s, of the list {gap_of_list:.2f} s")  # noqa: T201
        assert 4 * POLL_GAP + 2 + late > max(gaps.values())
        assert 4.5 + late > gap_of_list
        await invariants.until_all_is_stored()
        states = await sql.fetchrow("""
            select max(s.state), max(f.consecutive_failures)
            from fine_tuning.sources s join fine_tuning.freshness f on f.source = s.name""")
        assert ("ok", 0) == tuple(states or ())
    assert [] == truth.overlaps


async def test_one_rate_limit_for_all(url: str, truth: Truth, invariants: Invariants, tmp_path: Path) -> None:
    """In any interval, three replicas together send at most the requests of the rate limit, and one second's more."""
    per_second = 10.0
    config = tmp_path / "rate_limit.toml"
    config.write_text(f"""
[[sources]]
name = "openai"
api_key = "OPENAI_API_KEY"
base_url = "{truth.provider.url}"
requests_per_minute = {60 * per_second}
""")

    truth.faults = dict.fromkeys(truth.jobs[:2], error(500))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            env = daemon_env(
                tmp_path, url, truth.provider.url, CHECKPOINTD_CONFIG=str(config), CHECKPOINTD_LEASE_SECONDS="20"
            )
            del env["OPENAI_BASE_URL"]
            await stack.enter_async_context(daemon(env))
        await until(lambda: truth.requests)
        async with measure_stalls() as stalled:
            await asyncio.sleep(10)  # the time of the measurement
            late = LATE + stalled()  # requests of so long a time may arrive at once
        await invariants.check()
    times = [r.at for r in truth.requests]
    excess = max(
        (j - i + 1) - (1 + per_second * (times[j] - times[i] + 1 + late))
        for i in range(len(times))
        for j in range(i, len(times))
    )
    pace = len(times) / (times[-1] - times[0] - late + LATE)
    lists = sum(r.job is None for r in truth.requests)
    further_pages = sum(r.after is not None for r in truth.requests)
    print(f"{len(times)} requests ({lists} lists, {further_pages} further pages), {pace:.1f}/s, excess {excess:+.1f}")  # noqa: T201
    assert 0 >= excess
    assert 0.5 * per_second < pace
