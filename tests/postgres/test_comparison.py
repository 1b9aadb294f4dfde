"""The view comparison: what each job was given, and what came of it."""

from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync, track
from support.provider import JOB, Provider, checkpoint, job, page

LOSSES = ((1, 0.9, 1.2, 1.3), (2, 0.5, 0.8, 0.9), (3, 0.1, 1.0, 1.5))
"""The step, the training loss, and the losses on a sample and on all of the validation data."""


async def _read(store: Store, provider: Provider, **record: Any) -> None:
    provider.jobs = page([job(**record)])
    await track(store)
    await read_job_list(store, provider)


async def _row(sql: asyncpg.Connection, *columns: str) -> tuple[Any, ...]:
    """Return these columns of the only row of the view."""
    (row,) = await sql.fetch("select * from fine_tuning.comparison")
    return tuple(row[column] for column in columns)


async def test_results(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A row has the best and the last checkpoint, and the gaps between training and validation at the last one."""
    await _read(store, provider, status="succeeded", finished_at=1_721_767_600, trained_tokens=5000)
    provider.checkpoints[JOB] = page(
        [checkpoint(n, train_loss=train, valid_loss=valid, full_valid_loss=full) for n, train, valid, full in LOSSES]
    )
    await sync(store, provider)
    assert ("succeeded", 3600, 5000) == await _row(sql, "status", "duration_seconds", "trained_tokens")
    assert ("full_valid_loss", "minimize", "default") == await _row(sql, "metric", "direction", "set_for")
    assert (2, 0.9, 3, 3) == await _row(sql, "best_step", "best_value", "covered", "checkpoints")
    last = ("last_step", "last_value", "last_train_loss", "last_valid_loss", "last_full_valid_loss")
    assert (3, 1.5, 0.1, 1.0, 1.5) == await _row(sql, *last)
    assert (0.9, 1.4) == await _row(sql, "valid_gap", "full_valid_gap")


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (
            {"method": None, "n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8, "seed": None},
            {},
        ),
        (
            {"method": "dpo", "n_epochs": None, "batch_size": 8, "beta": 0.1, "training_file": "file-1", "seed": 7},
            {
                "hyperparameters": None,
                "method": {
                    "type": "dpo",
                    "dpo": {"hyperparameters": {"n_epochs": "auto", "batch_size": 8, "beta": 0.1}},
                },
                "training_file": "file-1",
                "validation_file": None,
                "seed": 7,
            },
        ),
        (
            {
                "method": "reinforcement", "n_epochs": None, "compute_multiplier": 1.5, "eval_interval": 5,
                "eval_samples": 2, "reasoning_effort": "high", "validation_file": "file-2",
                "hyperparameters_jsonb": '{"eval_samples": 2, "eval_interval": 5, "reasoning_effort": "high", '
                '"compute_multiplier": 1.5}',
            },
            {
                "hyperparameters": {},
                "method": {
                    "type": "reinforcement",
                    "reinforcement": {
                        "grader": {"type": "python"},
                        "hyperparameters": {
                            "eval_interval": 5, "eval_samples": 2, "compute_multiplier": 1.5,
                            "reasoning_effort": "high",
                        },
                    },
                },
                "validation_file": "file-2",
            },
        ),
        ({"method": "sft", "n_epochs": None, "seed": None}, {"method": "sft", "hyperparameters": [1], "seed": "x"}),
        ({"method": None, "training_file": '["file-1"]'}, {"method": ["dpo"], "training_file": ["file-1"]}),
        ({"method": None, "model": "gpt-4o-mini-2024-07-18", "seed": None}, {"note": "\0", "seed": 5}),
    ],
)  # fmt: skip
async def test_what_was_given(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: dict[str, Any], record: dict[str, Any]
) -> None:
    """What a job was given is in columns, in the form of each method; what it does not state is null."""
    await _read(store, provider, **record)
    assert tuple(expected.values()) == await _row(sql, *expected)


async def test_job_without_a_record(store: Store, sql: asyncpg.Connection) -> None:
    """A job of which nothing is known yet has a row."""
    await track(store)
    names = ("fine_tuning_job_id", "source", "status", "method", "duration_seconds", "best_step", "last_step")
    assert (JOB, "test", None, None, None, None, None) == await _row(sql, *names)


async def test_several_checkpoints_of_the_last_step(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the latest step has several checkpoints, the job still has one row."""
    await track(store)
    items = [{**checkpoint(n, train_loss=n), "step_number": max(n, 2)} for n in (1, 2, 3)]
    provider.checkpoints[JOB] = page([{**items[2], "step_number": 2}, items[1], items[0]])
    await sync(store, provider)
    assert (2, 1) == await _row(sql, "last_step", "last_train_loss")
