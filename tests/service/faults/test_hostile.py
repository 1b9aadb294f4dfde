"""A provider that sends hostile answers for some pages of some jobs, mixed with good ones."""

import asyncio
import itertools
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import POLL_GAP, daemon, daemon_env, measure_stalls, queued_seconds, track
from service.faults.hostile_answers import ITEMS, PAGES
from service.faults.invariants import Invariants
from service.faults.play import Play
from service.faults.truth import Spoil, Truth
from support.harness import until
from support.provider import Provider, checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BATCH = 20
"""How many jobs are answered with something hostile at the same time."""

HEALTHY = 8

POSITIONS = ("first", "middle", "last")


def _spoil(truth: Truth, name: str, form: str, position: str, served: dict[str, float]) -> Spoil:
    """Return what spoils the first, the last, or each middle page of a job, and notes when it first did."""

    def spoil(good: bytes, is_first: bool, is_last: bool) -> object:
        # A middle page can become the last one before it is requested again, as the oldest checkpoints are dropped.
        is_middle = not is_first and (not is_last or name in served)
        if not {"first": is_first, "middle": is_middle, "last": is_last}[position]:
            return None
        served.setdefault(name, time.time())
        if form in PAGES:
            return PAGES[form](good)
        return good.replace(b'"data": [', b'"data": [' + ITEMS[form](name) + b", ", 1)

    if form in ITEMS:
        truth.list_once(name, [{**checkpoint(9000, name), "id": f"ftckpt_{name}_hostile"}])
    return spoil


@pytest.mark.play("hostile answers", short=40, long=300, round=300)
async def test_hostile_answers(
    url: str,
    provider: Provider,
    play: Play,
    rng: random.Random,
    violations: Counter[str],
    sql: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    """Whatever is sent instead of a page, or as an item of a page, the other items and the other jobs stay true."""
    truth = Truth(provider, BATCH + HEALTHY, rng)
    healthy = truth.jobs[BATCH:]
    await track(url, truth.jobs)
    invariants = Invariants(url, truth, violations)
    every = list(itertools.product([*PAGES, *ITEMS], POSITIONS))
    rng.shuffle(every)
    cases = list(itertools.islice(itertools.cycle(every), play.amount))
    gaps = []
    async with daemon(daemon_env(tmp_path, url, provider.url, CHECKPOINTD_LEASE_SECONDS="60")) as one:
        await invariants.until_all_is_stored()
        for first in range(0, len(cases), BATCH):
            batch = cases[first : first + BATCH]
            served: dict[str, float] = {}
            async with invariants.checked(), measure_stalls() as stalled:
                known, started, queued = len(truth.requests), time.monotonic(), queued_seconds(one.process.pid)
                truth.spoilt = {
                    name: _spoil(truth, name, *case, served)
                    for name, case in zip(truth.jobs[:BATCH], batch, strict=False)
                }
                await until(lambda: len(served) == len(batch))  # noqa: B023
                await asyncio.sleep(1)  # the time in which the last of them has its effect
                ended, late = time.monotonic(), max(stalled(), queued_seconds(one.process.pid) - queued)
                incomplete = {
                    name: served[name] for name, (form, _) in zip(truth.jobs, batch, strict=False) if form in PAGES
                }
                play.violations["other"] += len(false := await _false_successes(sql, incomplete))
                assert [] == false
            starts = [(r.job, r.at) for r in truth.requests[known:] if r.after is None]
            gaps += [
                max(b - a for a, b in pairwise([started, *(at for job, at in starts if job == name), ended]))
                for name in healthy
            ]
            assert 4 * POLL_GAP + 2 + late > max(gaps[-HEALTHY:])
            play.made += len(batch)
            truth.spoilt = {}
            await _poll_failing_now(sql)
            play.recoveries.append(await invariants.until_all_is_stored())
            assert one.process.returncode is None
    print(f"longest gap of a healthy job {max(gaps):.2f} s; {len(every)} forms and positions")  # noqa: T201
    assert [] == truth.overlaps


async def _false_successes(sql: asyncpg.Connection, since: dict[str, float]) -> list[tuple[str, str]]:
    """Return the jobs with a complete poll since they are spoilt (Unix seconds), and their last error class."""
    rows = await sql.fetch(
        """
        select fine_tuning_job_id, extract(epoch from last_complete_at)::float8, error_class from fine_tuning.freshness
        where fine_tuning_job_id = any($1)""",
        list(since),
    )
    return [(name, error_class) for name, completed, error_class in rows if completed > since[name]]


async def _poll_failing_now(sql: asyncpg.Connection) -> None:
    """Let running polls end, which may still fail; then make all jobs due."""
    await asyncio.sleep(4)  # three tries of one second each, and the pauses between them
    await sql.execute("update checkpointd.polling set next_poll_at = least(next_poll_at, now())")
