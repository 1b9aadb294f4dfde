"""The history of each value: the changes, and metrics_as_of()."""

from datetime import datetime
from typing import Any

import asyncpg

from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync
from support.provider import JOB, Provider, checkpoint, job, page

Metrics = dict[tuple[str, str], float]


async def _as_of(sql: asyncpg.Connection, at: datetime) -> Metrics:
    rows = await sql.fetch("select checkpoint_id, metric, value from fine_tuning.metrics_as_of($1, $2)", JOB, at)
    return {(row["checkpoint_id"], row["metric"]): row["value"] for row in rows}


async def test_metrics_as_of_each_time(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """metrics_as_of() a time returns what the views showed then, after values came, went, changed and came back."""
    listings: list[list[dict[str, Any]]] = [
        [checkpoint(1, valid_loss=0.5)],
        [checkpoint(1, valid_loss=None), checkpoint(2)],
        [checkpoint(1, valid_loss=0.7, train_mean_reward=0.1), checkpoint(2, valid_loss=None)],
        [checkpoint(1, valid_loss=0.5, train_mean_reward=None), checkpoint(2, valid_loss=0.25)],
        [checkpoint(2, valid_loss=0.25), checkpoint(3)],
        [checkpoint(2, valid_loss=1e-320), checkpoint(3)],
        [checkpoint(1, valid_loss=0.1, train_mean_reward=7), checkpoint(3, train_loss=2.0**60)],
    ]
    before = await sql.fetchval("select clock_timestamp()")
    then: dict[datetime, Metrics] = {}
    for listing in listings:
        provider.checkpoints[JOB] = page(listing)
        await sync(store, provider)
        rows = await sql.fetch("select checkpoint_id, metric, value from fine_tuning.checkpoint_metrics")
        then[await sql.fetchval("select clock_timestamp()")] = {(r[0], r[1]): r[2] for r in rows}
    assert {} == await _as_of(sql, before)
    assert then == {at: await _as_of(sql, at) for at in then}
    assert 0.5 == then[list(then)[1]]["ftckpt_0001", "valid_loss"]  # null erased nothing


async def test_metrics_as_of_a_step_that_moved(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """metrics_as_of() returns the step of that time, and a metric that is named like a column is kept apart from it."""
    provider.checkpoints[JOB] = page([checkpoint(1, created_at=5.5)])
    await sync(store, provider)
    then = await sql.fetchval("select clock_timestamp()")
    provider.checkpoints[JOB] = page([{**checkpoint(1, created_at=6.5), "step_number": 8, "created_at": 1_721_764_900}])
    await sync(store, provider)
    query = "select step_number, value from fine_tuning.metrics_as_of($1, $2) where metric = 'created_at'"
    assert (1, 5.5) == tuple(await sql.fetchrow(query, JOB, then) or ())
    assert (8, 6.5) == tuple(await sql.fetchrow(query, JOB, await sql.fetchval("select now()")) or ())


async def test_metrics_as_of_names_that_look_alike(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A metric whose name is the feed's name of another metric is kept apart from it."""
    alike = {"foo": 1, "extra_metrics.foo": 2, "extra_metrics.valid_loss": 3}
    provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.5, **alike)])
    await sync(store, provider)
    then = await sql.fetchval("select clock_timestamp()")
    provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.6, **dict.fromkeys(alike, 9))])
    await sync(store, provider)
    known = await _as_of(sql, then)
    assert {"step": 1, "train_loss": 1, "valid_loss": 0.5, **alike} == {
        name: value for (_, name), value in known.items()
    }


async def test_a_commit_is_one_moment(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """All changes of one poll have the same time, and times ascend with seq, so that no time shows half a poll."""
    jobs = [JOB, "ftjob-2"]
    for loss in (0.5, 0.6, 0.7):
        for name in jobs:
            provider.checkpoints[name] = page([checkpoint(n, name, train_loss=loss + n) for n in range(1, 21)])
        provider.jobs = page([job(name, status=f"word {loss}") for name in jobs])
        await read_job_list(store, provider)
        await sync(store, provider, *jobs)
    rows = await sql.fetch("select at, poll_id, kind from fine_tuning.changes order by seq")
    assert 6 * 20 + 4 == len(rows)
    assert {1} == {
        len({row["at"] for row in rows if row["poll_id"] == poll}) for poll in {row["poll_id"] for row in rows} if poll
    }
    assert sorted(row["at"] for row in rows) == [row["at"] for row in rows]


async def test_each_change_names_its_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A change has the old value, the new value, and the poll that found it."""
    for loss in (0.5, 0.6):
        provider.checkpoints[JOB] = page([checkpoint(1, train_loss=loss)])
        await sync(store, provider)
    row = await sql.fetchrow(
        """select c.field, c.old_value, c.new_value, p.outcome, p.new, p.changed from fine_tuning.changes c
        join fine_tuning.polls p on p.id = c.poll_id where c.kind = 'changed'"""
    )
    assert ("train_loss", "0.5", "0.6", "changed", 0, 1) == tuple(row or ())
