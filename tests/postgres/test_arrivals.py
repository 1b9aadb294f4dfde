"""What is known of the arrivals of a source, and the price of its requests, are the same for all daemons."""

import math
from collections.abc import Sequence

import asyncpg
import pytest

from checkpointd.domain.cadence import SourceCadence
from checkpointd.postgres.arrivals import LEARN_SECONDS, learn_arrivals
from checkpointd.postgres.store import Capacity, Store
from support.harness import CADENCE, track

USUAL = CADENCE.unknown_source.prior


async def _learn(store: Store, sql: asyncpg.Connection, request_interval: float | None = None) -> SourceCadence:
    """Learn a minute later."""
    await sql.execute(
        "update checkpointd.source_arrivals set learnt_at = learnt_at - $1 * interval '1 s'", LEARN_SECONDS + 1
    )
    keys = await store.register_sources({"test": "openai"})
    return (await learn_arrivals(store, {keys["test"]: request_interval}, USUAL))[keys["test"]]


async def _set(sql: asyncpg.Connection, jobs: Sequence[str], values: str) -> None:
    await sql.execute(
        f"update checkpointd.polling set {values} from checkpointd.jobs where key = job and id = any($1)", jobs
    )


async def test_a_source_without_ended_jobs(store: Store, sql: asyncpg.Connection) -> None:
    """As long as no job has ended, the defaults hold, and requests have their usual price."""
    await track(store, "ftjob-1")
    await _set(sql, ["ftjob-1"], "arrivals = 5, spacing_s = 60, spread_s = 3, first_arrival_s = 60")
    assert CADENCE.unknown_source == await _learn(store, sql)


async def test_ended_jobs_teach(store: Store, sql: asyncpg.Connection) -> None:
    """Ended jobs teach the time to the first arrival, the spacing and the noise, as far as each job knows them.

    A job whose first checkpoint was there when its tracking began teaches nothing.
    """
    jobs = [f"ftjob-{n:03}" for n in range(100)]
    await track(store, *jobs)
    await _set(sql, jobs, "settling_since = now(), arrivals = 6, spacing_s = 300, spread_s = 6, first_arrival_s = 600, "
        "publication_delay_s = 60, epoch_estimate_s = 330")  # fmt: skip
    await _set(sql, jobs[:10], "arrivals = 1, spacing_s = 900, spread_s = 90")
    await _set(sql, jobs[10:30], "spacing_s = 10, spread_s = 9, first_arrival_s = null")
    prior, price = await _learn(store, sql)
    assert 1 == price
    assert pytest.approx(660, rel=0.05) == math.exp(prior.first_mean)
    assert pytest.approx(300, rel=0.05) == math.exp(prior.spacing_mean)
    assert pytest.approx(2, rel=0.05) == math.exp(prior.ratio_mean)
    assert pytest.approx(0.02, abs=0.02) == prior.noise
    assert pytest.approx(2, rel=0.05) == math.exp(prior.estimate_mean)
    assert 0.3 > prior.estimate_spread


async def test_learnt_once_a_minute(store: Store, sql: asyncpg.Connection) -> None:
    """Within a minute all daemons read what the first one has learnt."""
    keys = await store.register_sources({"test": "openai"})
    known = await learn_arrivals(store, {keys["test"]: None}, USUAL)
    await track(store, "ftjob-1")
    await _set(
        sql, ["ftjob-1"], "settling_since = now(), arrivals = 6, spacing_s = 3, spread_s = 1, first_arrival_s = 3"
    )
    assert known == await learn_arrivals(store, {keys["test"]: None}, USUAL)
    assert known[keys["test"]] != await _learn(store, sql)


async def test_the_price_fits_the_demand_to_the_rate_limit(store: Store, sql: asyncpg.Connection) -> None:
    """If polls need more requests than the rate limit permits, the price rises until nine tenths of it suffice."""
    jobs = [f"ftjob-{n:03}" for n in range(100)]
    await track(store, *jobs)
    await _set(sql, jobs, "gap_s = 20")
    for _ in range(12):  # a minute each
        price = (await _learn(store, sql, request_interval=0.5)).price
        await sql.execute("update checkpointd.polling set gap_s = 20 * sqrt($1::float8)", price)
    demand = await sql.fetchval("select sum(1 / gap_s) from checkpointd.polling")
    assert pytest.approx(1.8, rel=0.02) == demand
    assert pytest.approx((5 / 1.8) ** 2, rel=0.05) == price
    for _ in range(12):
        price = (await _learn(store, sql, request_interval=0.1)).price
        await sql.execute("update checkpointd.polling set gap_s = 20 * sqrt($1::float8)", price)
    assert 1 == price


async def test_the_highest_price(store: Store, sql: asyncpg.Connection) -> None:
    """If the polls never fit the rate limit, the price is sixteen times the usual one."""
    await track(store, "ftjob-1", "ftjob-2")
    await _set(sql, ["ftjob-1", "ftjob-2"], "gap_s = 300")
    assert [16, 16] == [(await _learn(store, sql, request_interval=30_000)).price for _ in range(2)]


async def test_failing_jobs_need_fewer_requests(store: Store, sql: asyncpg.Connection) -> None:
    """A job that fails, or is gone, needs requests as often as it is due, which is less often than by its gap."""
    await track(store, "ftjob-1", "ftjob-2")
    await _set(
        sql, ["ftjob-1", "ftjob-2"], "gap_s = 20, last_attempt_at = now(), next_poll_at = now() + interval '20 s'"
    )
    assert pytest.approx(2) == (await _learn(store, sql, request_interval=18)).price
    await sql.execute("delete from checkpointd.source_arrivals")
    await _set(sql, ["ftjob-2"], "next_poll_at = now() + interval '1 day'")
    assert pytest.approx(1, rel=0.01) == (await _learn(store, sql, request_interval=18)).price


@pytest.mark.parametrize(
    "damage",
    [
        "spacing_s = 0",
        "spacing_s = 1e-300",
        "spacing_s = 'infinity'",
        "spread_s = 'NaN'",
        "spread_s = 1e300",
        "first_arrival_s = 0",
        "publication_delay_s = -1e300",
        "epoch_estimate_s = 0",
    ],
)
async def test_a_damaged_row_teaches_nothing(store: Store, sql: asyncpg.Connection, damage: str) -> None:
    """A spacing of zero, which older versions stored when the clock was set back, or a damaged number teach nothing."""
    await track(store, "ftjob-1", "ftjob-2")
    good = "settling_since = now(), arrivals = 5, spacing_s = 60, spread_s = 1e-300, first_arrival_s = 60"
    await _set(sql, ["ftjob-1", "ftjob-2"], good)
    await _set(sql, ["ftjob-2"], "settling_since = null")
    known = await _learn(store, sql)
    assert CADENCE.unknown_source != known
    await _set(sql, ["ftjob-2"], f"settling_since = now(), {damage}")
    assert known == await _learn(store, sql)


@pytest.mark.parametrize(
    "gaps",
    [[5 * n for n in range(1, 21)], 5 * [2] + 40 * [100], 20 * [300]],
    ids=["different gaps", "two groups", "the same gap"],
)
@pytest.mark.parametrize("are_together", [True, False])
async def test_no_job_waits_for_long(
    store: Store, sql: asyncpg.Connection, gaps: list[int], are_together: bool
) -> None:
    """If a third of the polls are permitted, a job waits for 11 times its gap, and two polls of each job, at most.

    This is so if all jobs are due together at first, and if they are spread over their gaps.
    """
    jobs = {f"ftjob-{n:02}": gap for n, gap in enumerate(gaps)}
    await track(store, *jobs)
    polled = dict.fromkeys(jobs, 0.0)
    for n, (job, gap) in enumerate(jobs.items()):
        polled[job] = -gap * (1 if are_together else n / len(jobs))
        await _set(sql, [job], f"gap_s = {gap}, next_poll_at = now() + interval '{polled[job] + gap - 0.01} s'")
    keys = await store.register_sources({"test": "openai"})
    second = 3 / sum(1 / gap for gap in gaps)  # the limit permits one poll in this time
    longest = {job: 6 * math.log(6) * gap + 2 * len(jobs) * second for job, gap in jobs.items()}
    polls = math.ceil(max(longest.values()) / second)
    for n in range(polls):
        for lease in await store.claim_due_jobs({keys["test"]: Capacity(1, 1, None)}, 60):
            waited, polled[lease.id] = n * second - polled[lease.id], n * second
            assert longest[lease.id] >= waited
        await sql.execute(
            """update checkpointd.polling set lease_expires_at = null, last_attempt_at = last_attempt_at - shift,
              next_poll_at = case when lease_expires_at is null then next_poll_at
                else last_attempt_at + gap_s * interval '1 s' end - shift
            from (values ($1 * interval '1 s')) as clock (shift)""",
            second,
        )
    assert all(polls * second - at <= longest[job] for job, at in polled.items())


async def test_the_most_likely_news_first(store: Store, sql: asyncpg.Connection) -> None:
    """Of jobs that are due, those come first that are overdue by the largest part of their gaps."""
    await track(store, "ftjob-1", "ftjob-2", "ftjob-3")
    late = {"ftjob-1": (300, 60), "ftjob-2": (15, 10), "ftjob-3": (60, 20)}
    for job, (gap, seconds) in late.items():
        await _set(
            sql,
            [job],
            f"gap_s = {gap}, next_poll_at = now() - interval '{seconds} s', last_attempt_at = now() - interval '1 h'",
        )
    keys = await store.register_sources({"test": "openai"})
    claimed = [lease.id for _ in late for lease in await store.claim_due_jobs({keys["test"]: Capacity(1, 1, None)}, 60)]
    assert ["ftjob-2", "ftjob-3", "ftjob-1"] == claimed
