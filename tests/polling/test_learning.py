"""What is known of the arrivals of a source decides when its jobs are polled."""

import asyncpg
import pytest

from checkpointd.polling.learning import learn
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from support.harness import CADENCE, open_source, polling_one, tick, track
from support.provider import JOB, Provider, page

USUAL = CADENCE.unknown_source.prior


async def test_all_daemons_know_the_same(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon that starts knows what another one has learnt, and the price that this one has set."""
    async with open_source(store, provider) as source, open_source(store, provider) as other:
        await learn(store, [source], USUAL, Health())
        assert CADENCE.unknown_source == source.cadence
        await sql.execute("update checkpointd.source_arrivals set price = 7, spacings = 50, spacing_mean = 3,"
            " spacing_spread = 0.1")  # fmt: skip
        await learn(store, [source], USUAL, Health())
        await learn(store, [other], USUAL, Health())
        assert source.cadence == other.cadence
        assert source.cadence is not None
        assert 7 == source.cadence.price
        assert source.cadence.prior.spacing(None).seconds < 60


async def test_a_failure_is_reported(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If nothing can be learnt, that is a problem of this process, and the source keeps what is known of it."""
    health = Health()
    async with open_source(store, provider) as source:
        await learn(store, [source], USUAL, health)
        known = source.cadence
        assert not health.problems()
        await sql.execute("alter table checkpointd.source_arrivals rename column price to cost")
        await learn(store, [source], USUAL, health)
        assert health.problems()
        assert known is not None
        assert known == source.cadence


OVERDUE = "arrivals = 9, newest_step = 9, spacing_s = 600, spread_s = 6, newest_seen_at = now() - interval '4200 s'"


@pytest.mark.parametrize("known", [f"{OVERDUE}, waited_s = 3600", "epoch_estimate_s = 600"])
async def test_what_is_known_of_a_job(store: Store, provider: Provider, sql: asyncpg.Connection, known: str) -> None:
    """A job is polled most often when a checkpoint is expected, by its pauses or by what the provider estimates."""
    provider.checkpoints[JOB] = page([])
    await track(store)
    await sql.execute("update checkpointd.jobs set tracked_at = now() - interval '600 s'")
    gaps = []
    async with polling_one(store, provider) as (poller, source, _):
        source.cadence = CADENCE.unknown_source._replace(prior=USUAL._replace(estimate_spread=0.02))
        for values in ("waited_s = 0", known):
            await sql.execute(
                f"update checkpointd.polling set {OVERDUE if known.startswith(OVERDUE) else 'arrivals = 0'}"
            )
            await sql.execute(f"update checkpointd.polling set next_poll_at = now(), {values}")
            assert 1 == await tick(poller)
            await poller.queue.saved()
            gaps.append(await sql.fetchval("select gap_s from checkpointd.polling"))
    assert gaps[0] > 2 * gaps[1], gaps
    assert 60 > gaps[1]
