"""F4 and what replicas promise: one poll of a job at a time, no late write, a takeover, a bad key, one budget."""

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import INTERVAL, LEASE, daemon, surroundings, until, watching_the_machine
from service.faults.invariants import Judge
from service.faults.proxy import Proxy
from service.faults.truth import Overlap, Truth
from support.provider import error, held, page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LATE = 1.0
"""Seconds that a request, once it is allowed, may be late by the way to the provider, on a busy machine."""


LEFT_OF_LEASE = """
    select extract(epoch from p.lease_expires_at - clock_timestamp())::float8
    from checkpointd.polling p join checkpointd.jobs j on j.key = p.job where j.id = $1"""


async def test_zombie_writes_nothing(
    url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """F4. Frozen beyond its lease with its answer on the way, it writes none of it, says so once, and works on."""
    name = truth.jobs[0]
    stale, reached, go_on = held(page([{**truth.item(name), "id": "ftckpt_of_a_zombie"}]))
    async with AsyncExitStack() as stack:
        alone = surroundings(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="1")
        zombie = await stack.enter_async_context(daemon(alone))
        await zombie.wait_for("poll.changed")
        truth.faults[name] = stale
        await asyncio.wait_for(reached.wait(), 30)
        zombie.process.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        left = await sql.fetchval(LEFT_OF_LEASE, name)
        del truth.faults[name]
        # However slow a machine is, no poll of it fails.
        patient = surroundings(tmp_path, url, truth.provider.url, CHECKPOINTD_LEASE_SECONDS="60",
                               CHECKPOINTD_REQUEST_TIMEOUT_SECONDS="30")  # fmt: skip
        other = await stack.enter_async_context(daemon(patient))
        await until(lambda: any(r.key == other.key and r.job == name for r in truth.requests), 60)
        assert time.monotonic() - frozen > left
        go_on.set()
        await asyncio.sleep(0.2)  # the answer lies in the zombie's socket
        known, asked = len(zombie.log), truth.asked(zombie.key)
        thawed = await sql.fetchval("select clock_timestamp()")
        zombie.process.send_signal(signal.SIGCONT)
        await zombie.wait_for("its lease was lost", after=known)
        await until(lambda: truth.asked(zombie.key) >= asked + 5, 60)
        said = [line for line in zombie.log[known:] if name in line]
        assert [True, *(False for _ in said[1:])] == ["its lease was lost" in line for line in said], said
        # Late it could have saved that it gave up waiting for its answer, or (below) the answer.
        failed = """select count(*) from fine_tuning.polls
                    where fine_tuning_job_id = $1 and outcome <> 'changed' and last_at > $2"""
        assert 0 == await sql.fetchval(failed, name, thawed)
        truth.grow(name)
        await judge.until_all_is_stored()
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where id = 'ftckpt_of_a_zombie'")


async def test_frozen_at_random(url: str, truth: Truth, judge: Judge, rng: random.Random, tmp_path: Path) -> None:
    """F4. Of three replicas, whose way to the database is long, one after the other freezes beyond its lease."""
    truth.delay = lambda: rng.uniform(0, 0.02)
    frozen: list[tuple[str, float, float]] = []
    async with Proxy(url) as proxy, AsyncExitStack() as stack:
        # Transactions overlap, and would end in another order than they wrote, did they not wait for one another.
        proxy.latency = lambda chunk: rng.uniform(0, 0.4) if b"COMMIT" in chunk else 0.0
        replicas = [
            await stack.enter_async_context(daemon(surroundings(tmp_path, proxy.url, truth.provider.url)))
            for _ in range(3)
        ]
        for replica in replicas:
            await replica.wait_for("daemon.ready")
        async with judge.watching(0.05):
            for _ in range(3):
                one = rng.choice(replicas)
                began = time.monotonic()
                one.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(LEASE, LEASE + 0.5))
                one.process.send_signal(signal.SIGCONT)
                frozen.append((one.key, began, time.monotonic() + LEASE))
                await asyncio.sleep(rng.uniform(0, 0.5))
        proxy.latency = None
        await judge.until_all_is_stored()

    def is_of_a_zombie(overlap: Overlap) -> bool:
        """Tell the requests of one that was frozen, until it notices its poll's deadline: nobody can stop those."""
        return any(key in {overlap.key, overlap.other} and a < overlap.at < b for key, a, b in frozen)

    assert [] == [overlap for overlap in truth.at_once if not is_of_a_zombie(overlap)]


async def test_takeover(url: str, truth: Truth, judge: Judge, rng: random.Random, tmp_path: Path) -> None:
    """A killed replica's jobs are polled by another one within a lease and an interval; none is polled by two."""
    truth.delay = lambda: rng.uniform(0, 0.03)
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                daemon(surroundings(tmp_path, url, truth.provider.url, CHECKPOINTD_CONCURRENCY="4"))
            )
            for _ in range(2)
        ]
        async with judge.watching():
            await until(lambda: {first.key, second.key} <= set(truth.leaders().values()), 60)
            orphans = [name for name, key in truth.leaders().items() if key == first.key]
            first.process.kill()
            killed = time.monotonic()
            async with watching_the_machine() as stood_still:
                await asyncio.sleep(2 * LEASE + INTERVAL)
                await until(lambda: set(truth.jobs) == {r.job for r in truth.requests if r.job and r.at > killed}, 60)
        waits = {
            name: min(r.at - killed for r in truth.requests if r.job == name and r.at > killed) for name in truth.jobs
        }
        assert orphans
        # On top of it: a ring of the daemon's clock, and a slot that gets free. After two leases it would be too late.
        assert 2 * LEASE - INTERVAL + stood_still() > max(waits.values())
        await judge.until_all_is_stored()
    print(f"{len(orphans)} orphans, all polled within {max(waits.values()):.2f} s")  # noqa: T201
    assert [] == truth.at_once


async def test_refused_key(url: str, truth: Truth, judge: Judge, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A replica whose key is refused goes quiet; the other one keeps every job and the job list fresh."""
    async with AsyncExitStack() as stack:
        bad_env, good_env = (surroundings(tmp_path, url, truth.provider.url) for _ in range(2))
        truth.refused.add(bad_env["OPENAI_API_KEY"])
        good = await stack.enter_async_context(daemon(good_env))
        await good.wait_for("poll.changed")
        bad = await stack.enter_async_context(daemon(bad_env))
        await bad.wait_for("daemon.ready")
        await bad.wait_for("source.refused")
        await asyncio.sleep(2)  # in which what is under way ends
        asked, began = truth.asked(bad.key), time.monotonic()
        async with judge.watching(), watching_the_machine() as stood_still:
            await asyncio.sleep(6)
            ended, late = time.monotonic(), stood_still()
        assert asked == truth.asked(bad.key)
        # Those that were under way when the first was refused, and one job list.
        assert 17 >= asked
        gaps = []
        for name in (*truth.jobs, None):
            times = [began, *(r.at for r in truth.requests if r.key == good.key and r.job == name
                              and began < r.at < ended and r.after is None), ended]  # fmt: skip
            gaps.append(max(later - earlier for earlier, later in pairwise(times)))
        *of_jobs, of_list = gaps
        print(f"{asked} requests refused; longest gap of a job {max(of_jobs):.2f} s, of the list {of_list:.2f} s")  # noqa: T201
        assert 4 * INTERVAL + 2 + late > max(of_jobs)
        assert 4.5 + late > of_list
        await judge.until_all_is_stored()
        assert ("ok", 0) == tuple(
            await sql.fetchrow("""select max(s.state), max(f.consecutive_failures) from fine_tuning.sources s
                                  join fine_tuning.freshness f on f.source = s.name""")
            or ()
        )
    assert [] == truth.at_once


async def test_one_budget(url: str, truth: Truth, judge: Judge, tmp_path: Path) -> None:
    """Three replicas with one budget: over no span do they ask for more than it allows, and one second's share."""
    per_second = 10.0
    config = tmp_path / "budget.toml"
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
            env = surroundings(tmp_path, url, truth.provider.url, CHECKPOINTD_CONFIG=str(config),
                               CHECKPOINTD_LEASE_SECONDS="20")  # fmt: skip
            del env["OPENAI_BASE_URL"]
            await stack.enter_async_context(daemon(env))
        await until(lambda: truth.requests, 60)
        async with watching_the_machine() as stood_still:
            await asyncio.sleep(10)
            late = LATE + stood_still()  # by which time those of a while come at once
        await judge.look()
    times = [r.at for r in truth.requests]
    worst = max(
        (j - i + 1) - (1 + per_second * (times[j] - times[i] + 1 + late))
        for i in range(len(times))
        for j in range(i, len(times))
    )
    pace = len(times) / (times[-1] - times[0] - late + LATE)
    lists = sum(r.job is None for r in truth.requests)
    pages = sum(r.after is not None for r in truth.requests)
    print(f"{len(times)} requests ({lists} lists, {pages} further pages), {pace:.1f}/s, at most {worst:+.1f} over")  # noqa: T201
    assert 0 >= worst
    assert 0.5 * per_second < pace
