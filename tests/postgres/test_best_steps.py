"""The best step of a curve, and the nearest checkpoint that can be deployed. Expected values were found by hand."""

import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.objectives import set_objective
from checkpointd.postgres.store import Store
from support.harness import sync, track
from support.provider import JOB, Provider, checkpoint, page

CURVE = {10: 0.9, 20: 0.5, 27: 0.2, 30: 0.4, 40: 0.6}
"""The validation loss by step."""


async def _store_steps(sql: asyncpg.Connection, curve: dict[int, float | None], **extra: float) -> None:
    """Store the steps of JOB, as reading its events does."""
    await sql.execute(
        """insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
        select key, 0, now(), now(), $1 from checkpointd.jobs""",
        len(curve),
    )
    await sql.executemany(
        """insert into checkpointd.steps (job, step_number, created_at, valid_loss, id, extra_metrics)
        select key, $1::bigint, 1721764800 + $1::bigint, $2, 'ftevent-' || $1::bigint, $3 from checkpointd.jobs""",
        [(step, loss, json.dumps(extra)) for step, loss in curve.items()],
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
    assert (model,) == await _best(sql, "fine_tuned_model_checkpoint")


async def test_only_what_can_be_deployed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint that the provider no longer lists, or without the name of its model, is not the nearest one."""
    nameless = {**_checkpoints([27], valid_loss=1)[0], "fine_tuned_model_checkpoint": None}
    for steps in ([20, 30, 40], [20, 40], [20, 40]):
        provider.checkpoints[JOB] = page([*_checkpoints(steps, valid_loss=1), nameless])
        await sync(store, provider)
        await store.resync(await store.find_jobs([JOB]))
    await _store_steps(sql, CURVE)
    assert (20, 7) == await _best(sql, "nearest_step_number", "distance_steps")


async def test_objective_of_the_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The best step follows the objective of the job, also one without checkpoints; of equal steps it is the later."""
    await track(store)
    await _store_steps(sql, {10: 0.5, 20: None, 30: 0.5, 40: 0.1}, reward=0.25)
    columns = ("step_number", "metric", "direction", "set_for", "value", "covered", "steps", "nearest_checkpoint_id")
    assert (None, None, None, "default", None, 0, 4, None) == await _best(sql, *columns)
    (found,) = await store.find_jobs([JOB])
    await set_objective(store, found, ("valid_loss", "maximize"))
    assert (30, "valid_loss", "maximize", "job", 0.5, 3, 4, None) == await _best(sql, *columns)
    await set_objective(store, found, ("reward", "maximize"))
    assert (40, "reward", "maximize", "job", 0.25, 4, 4, None) == await _best(sql, *columns)
    provider.checkpoints[JOB] = page(_checkpoints([10]))
    await sync(store, provider)
    await set_objective(store, found, ("cost", "minimize"))
    assert (None, "cost", "minimize", "job", None, 0, 4, None) == await _best(sql, *columns)
