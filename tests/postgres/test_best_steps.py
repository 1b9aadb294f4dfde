"""The best step of a curve, and the nearest checkpoint that can be deployed. Expected values were found by hand."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.objectives import set_objective
from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync, track
from support.provider import JOB, Provider, checkpoint, job, page

CURVE = {step: {"valid_loss": loss} for step, loss in {10: 0.9, 20: 0.5, 27: 0.2, 30: 0.4, 40: 0.6}.items()}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": {}}}


async def _store_steps(sql: asyncpg.Connection, curve: Mapping[int, Mapping[str, float | None]]) -> None:
    """Store the metrics of the steps of JOB, as reading its events does."""
    await sql.execute(
        """insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
        select key, 0, now(), now(), $1 from checkpointd.jobs where id = $2""",
        len(curve),
        JOB,
    )
    losses = ("train_loss", "valid_loss", "full_valid_loss")
    await sql.executemany(
        """insert into checkpointd.steps (job, step_number, created_at, id, train_loss, valid_loss, full_valid_loss,
          extra_metrics)
        select key, $1::bigint, 1721764800 + $1::bigint, 'ftevent-' || $1::bigint, $2, $3, $4, $5
        from checkpointd.jobs where id = $6""",
        [
            (
                step,
                *map(metrics.get, losses),
                json.dumps({name: value for name, value in metrics.items() if name not in losses}),
                JOB,
            )
            for step, metrics in curve.items()
        ],
    )


def _checkpoints(steps: Sequence[int], **metrics: Any) -> list[dict[str, Any]]:
    return [{**checkpoint(step, **metrics), "step_number": step} for step in steps]


async def _best(sql: asyncpg.Connection, *columns: str) -> tuple[Any, ...]:
    (row,) = await sql.fetch("select * from fine_tuning.best_steps")
    return tuple(row[column] for column in columns)


@pytest.mark.parametrize(
    ("expected", "steps"),
    [
        ((30, 3), [10, 20, 30, 40]),
        ((20, 7), [10, 20, 40]),
        ((29, 2), [25, 29]),  # of two at the same distance, the later one
        ((27, 0), [27]),
    ],
)
async def test_nearest_checkpoint(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: tuple[int, int], steps: list[int]
) -> None:
    """The best step of the curve is shown with the nearest checkpoint and its distance in steps."""
    provider.checkpoints[JOB] = page(_checkpoints(steps, valid_loss=1))
    await sync(store, provider)
    await _store_steps(sql, CURVE)
    assert ("valid_loss", "minimize", "default") == await _best(sql, "metric", "direction", "set_for")
    assert (27, 0.2, 5, 5) == await _best(sql, "step_number", "value", "covered", "steps")
    assert expected == await _best(sql, "nearest_step_number", "distance_steps")
    model = await sql.fetchval(
        "select fine_tuned_model_checkpoint from fine_tuning.checkpoints where step_number = $1", expected[0]
    )
    assert (model, model) == await _best(sql, "fine_tuned_model_checkpoint", "deploy_as")


async def test_only_what_can_be_deployed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint that the provider no longer lists, or that cannot be deployed, is not the nearest one."""
    nameless = {**_checkpoints([27], valid_loss=1)[0], "fine_tuned_model_checkpoint": None}
    for steps in ([20, 30, 40], [20, 40], [20, 40]):
        provider.checkpoints[JOB] = page([*_checkpoints(steps, valid_loss=1), nameless])
        await sync(store, provider)
        await store.resync(await store.find_jobs([JOB]))
    await _store_steps(sql, CURVE)
    assert (20, 7) == await _best(sql, "nearest_step_number", "distance_steps")


@pytest.mark.parametrize(
    ("kind", "details", "expected"),
    [
        ("together", {"deploy_as": "acme/model-step-20"}, (20, 7, None, "acme/model-step-20")),
        ("nebius", None, (20, 7, None, f"{JOB}:ftckpt_0020")),
        ("openai", None, (None, None, None, None)),
    ],
)
async def test_deployed_by_another_text(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    kind: str,
    details: dict[str, Any] | None,
    expected: tuple[Any, ...],
) -> None:
    """A checkpoint without the name of its model is the nearest one if the provider deploys it by another text."""
    provider.checkpoints[JOB] = page(_checkpoints([20], valid_loss=1))
    await sync(store, provider)
    await sql.execute("update checkpointd.sources set kind = $1", kind)
    await sql.execute(
        "update checkpointd.checkpoints set fine_tuned_model_checkpoint = null, details = $1::jsonb",
        json.dumps(details) if details else None,
    )
    await _store_steps(sql, CURVE)
    columns = ("nearest_step_number", "distance_steps", "fine_tuned_model_checkpoint", "deploy_as")
    assert expected == await _best(sql, *columns)


async def test_checkpoint_without_a_step(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint whose step is not known is not called the nearest one."""
    provider.checkpoints[JOB] = page(_checkpoints([20], valid_loss=1))
    await sync(store, provider)
    await sql.execute("update checkpointd.checkpoints set step_number = null")
    await _store_steps(sql, CURVE)
    assert (27, None, None) == await _best(sql, "step_number", "nearest_checkpoint_id", "distance_steps")


RL = [{"critic_rewards_mean": n / 10, "actor_pg_loss": n, "train_loss": n} for n in (1, 3, 2)]


@pytest.mark.parametrize(
    ("method", "checkpoints", "steps", "expected"),
    [
        # rewards that only the events have, with and without checkpoints
        (REINFORCEMENT, [{}, {}, {}], RL, (2, "critic_rewards_mean", "maximize", 0.3, 3)),
        (None, [], RL, (2, "critic_rewards_mean", "maximize", 0.3, 3)),
        (
            None,
            [{}, {}],
            [{"train_loss": 3}, {"train_loss": 1}, {"train_loss": 2}],
            (2, "train_loss", "minimize", 1, 3),
        ),
        (None, [], [{"train_loss": 1, "valid_loss": 3 - n} for n in (1, 2)], (2, "valid_loss", "minimize", 1, 2)),
        # checkpoints without the values on all validation data that the steps have
        (
            None,
            [{"train_loss": 1, "valid_loss": n} for n in (1, 2)],
            [{"valid_loss": n, "full_valid_loss": {1: 5, 3: 4}.get(n)} for n in (1, 2, 3)],
            (3, "full_valid_loss", "minimize", 4, 2),
        ),
        # one such value alone cannot be compared, but is better than a loss on training data
        (
            None,
            [],
            [{"valid_loss": n, "full_valid_loss": {3: 4}.get(n)} for n in (1, 2, 3)],
            (1, "valid_loss", "minimize", 1, 3),
        ),
        (
            None,
            [],
            [{"train_loss": n, "full_valid_loss": {3: 4}.get(n)} for n in (1, 2)] + [{"full_valid_loss": 4}],
            (3, "full_valid_loss", "minimize", 4, 1),
        ),
        # rewards by rank, then that of the checkpoints, then the one that most steps have, a mean, never the spread
        (
            None,
            [],
            [{"reward": n, "valid_reward": -n, "full_valid_reward": {1: 1}.get(n)} for n in (1, 2)],
            (1, "valid_reward", "maximize", -1, 2),
        ),
        (
            None,
            [{"reward_x": 1}],
            [{"reward_x": -n, "mean_reward": n} for n in (1, 2)],
            (1, "reward_x", "maximize", -1, 2),
        ),
        (
            None,
            [],
            [{"mean_reward": -n, "reward": n, "reward_std": n} for n in (1, 2)],
            (1, "mean_reward", "maximize", -1, 2),
        ),
        # no losses in reinforcement learning, which the record or the checkpoints show
        (REINFORCEMENT, [], [{"train_loss": 1, "valid_loss": 1}], (None, None, None, None, 0)),
        (None, [{"reward": 1}], [{"train_loss": 1}], (None, "reward", "maximize", None, 0)),
        (None, [], [{"rewards/chosen": 1}], (None, None, None, None, 0)),
    ],
)
async def test_default_objective(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    method: dict[str, Any] | None,
    checkpoints: Sequence[dict[str, float]],
    steps: Sequence[dict[str, float | None]],
    expected: tuple[Any, ...],
) -> None:
    """By default, the best step is chosen by the metrics of the steps, and best_checkpoints by its own only."""
    await track(store)
    if method is not None:
        provider.jobs = page([job(method=method)])
        await read_job_list(store, provider)
    items = [{**checkpoint(n), "step_number": n, "metrics": metrics} for n, metrics in enumerate(checkpoints, 1)]
    provider.checkpoints[JOB] = page(items)
    await sync(store, provider)
    rules = await sql.fetch("select rule, value from fine_tuning.best_checkpoints")
    await _store_steps(
        sql,
        {
            n: {name: value for name, value in metrics.items() if value is not None}
            for n, metrics in enumerate(steps, 1)
        },
    )
    assert (*expected, "default") == await _best(
        sql, "step_number", "metric", "direction", "value", "covered", "set_for"
    )
    assert rules == await sql.fetch("select rule, value from fine_tuning.best_checkpoints")
    compared = await sql.fetchrow(
        """select curve_best_step, curve_metric, curve_direction, curve_best_value, metric
        from fine_tuning.comparison"""
    )
    assert (*expected[:4], rules[0]["rule"] if rules else None) == tuple(compared)


async def test_objective_of_the_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The best step follows the objective of the job, also one without checkpoints; of equal steps it is the later."""
    await track(store)
    losses = {10: 0.5, 20: None, 30: 0.5, 40: 0.1}
    await _store_steps(sql, {step: {"valid_loss": loss, "reward": 0.25} for step, loss in losses.items()})
    columns = ("step_number", "metric", "direction", "set_for", "value", "covered", "steps", "nearest_checkpoint_id")
    assert (40, "reward", "maximize", "default", 0.25, 4, 4, None) == await _best(sql, *columns)
    (found,) = await store.find_jobs([JOB])
    await set_objective(store, found, ("valid_loss", "maximize"))
    assert (30, "valid_loss", "maximize", "job", 0.5, 3, 4, None) == await _best(sql, *columns)
    provider.checkpoints[JOB] = page(_checkpoints([10]))
    await sync(store, provider)
    await set_objective(store, found, ("cost", "minimize"))
    assert (None, "cost", "minimize", "job", None, 0, 4, None) == await _best(sql, *columns)


@pytest.mark.parametrize("view", ["best_steps", "comparison"])
async def test_only_the_steps_of_the_job(store: Store, sql: asyncpg.Connection, view: str) -> None:
    """A query of one job reads the steps of no other job."""
    await track(store, *(f"ftjob-{n}" for n in range(100)))
    await sql.execute(
        """insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
        select key, 0, now(), now(), 50 from checkpointd.jobs;
        insert into checkpointd.steps (job, step_number, id, train_loss)
        select key, n, n, 1 from checkpointd.jobs cross join generate_series(1, 50) n;
        analyze"""
    )
    reads = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'steps'"
    async with sql.transaction():
        before = await sql.fetchval(reads)
        assert 1 == len(await sql.fetch(f"select * from fine_tuning.{view} where fine_tuning_job_id = 'ftjob-7'"))
        read = await sql.fetchval(reads) - before
    assert 50 <= read <= 3 * 50 + 1
