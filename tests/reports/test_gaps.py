"""A suspected gap where the steps of a job are uneven for another reason; and real gaps, which must still be found."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.telemetry import database_metrics, metrics
from checkpointd.telemetry.health import Health
from support.harness import read_job_list, sync
from support.provider import JOB, Provider, checkpoint, job, page

UNEVEN = (5, 10, 25)
SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5}}}
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": {"type": "python"}, "hyperparameters": None}}


async def _suspected(store: Store, provider: Provider, steps: Sequence[int], **fields: Any) -> tuple[bool, float]:
    """Poll a job with checkpoints at these steps, and read the job list. Return what the view and the metric report."""
    found = {name: fields.pop(name) for name in list(fields) if "reward" in name}
    provider.jobs = page([job(**fields)])
    provider.checkpoints[JOB] = page([{**checkpoint(n, **found), "step_number": n} for n in reversed(steps)])
    await sync(store, provider)
    await read_job_list(store, provider)
    await database_metrics.refresh(store, Health(), ["test"])
    async with store.connection() as sql:
        in_view = await sql.fetchval("select suspected_gap from fine_tuning.jobs")
    return in_view, metrics.REGISTRY.get_sample_value("checkpointd_suspected_gap_jobs", {"source": "test"}) or 0


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"method": REINFORCEMENT},
        {"method": REINFORCEMENT, "status": "succeeded"},
        {"method": {**REINFORCEMENT, "type": "Reinforcement"}},
        {"method": {"type": "reinforcement"}, "metadata": {"note": "\0"}},
        {"method": None, "hyperparameters": {"n_epochs": 3, "eval_interval": 5}},
        {"method": {"reinforcement": {"hyperparameters": {"compute_multiplier": 2, "eval_samples": "auto"}}}},
        {"training_method": {"method": "grpo"}},
        {"method": {"type": "ppo"}},
        {"method": {"type": "rlhf"}, "hyperparameters": None},
        {"hyperparameters": None, "train_mean_reward": 0.5},
        {"valid_reward_mean": 0.5},
    ],
)
async def test_reinforcement_learning_is_uneven(store: Store, provider: Provider, fields: dict[str, Any]) -> None:
    """No gap is suspected for a reinforcement job, which its method, its hyperparameters or its rewards show."""
    assert (False, 0) == await _suspected(store, provider, UNEVEN, **fields)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    "fields",
    [
        {"method": SUPERVISED},
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 3}}}},
        {"method": None},
        {"method": SUPERVISED, "hyperparameters": {"n_epochs": 5, "eval_interval": None}},
        {"method": {"type": "supported"}, "metadata": {"type": "url"}},
    ],
)
async def test_a_missing_epoch_is_still_suspected(store: Store, provider: Provider, fields: dict[str, Any]) -> None:
    """A gap is suspected for a job with one checkpoint per epoch that lacks some of them."""
    assert (True, 1) == await _suspected(store, provider, UNEVEN, **fields)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("status", "steps"),
    [
        ("cancelled", (100, 200, 205)),
        ("failed", (100, 120)),
        ("succeeded", (50, 100, 120)),
        ("paused", (100, 110, 200)),
        ("running", (100, 200, 205, 300, 400)),
        ("running", (10, 100)),
        ("running", (80, 90, 100)),
    ],
)
async def test_a_short_distance_is_no_gap(store: Store, provider: Provider, status: str, steps: Sequence[int]) -> None:
    """No gap is suspected after a step that is nearer than usual, nor while the usual distance is unknown."""
    assert (False, 0) == await _suspected(store, provider, steps, status=status, method=SUPERVISED)


async def test_the_kind_of_job_is_learnt_later(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A gap that was suspected before the job record arrived is not suspected after it."""
    provider.checkpoints[JOB] = page([checkpoint(n) for n in UNEVEN])
    await sync(store, provider)
    assert await sql.fetchval("select suspected_gap from fine_tuning.jobs")
    provider.jobs = page([job(method=REINFORCEMENT)])
    await read_job_list(store, provider)
    assert not await sql.fetchval("select suspected_gap from fine_tuning.jobs")


async def test_many_checkpoints_after_an_outage(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Many new checkpoints in one poll are no gap if the provider lists all of them, as after an outage."""
    for last in (1, 20, 40):
        provider.checkpoints[JOB] = page([checkpoint(n) for n in range(1, last + 1)])
        await sync(store, provider)
    assert not await sql.fetchval("select suspected_gap from fine_tuning.jobs")
    provider.checkpoints[JOB] = page([checkpoint(n) for n in range(50, 60)])
    await sync(store, provider)
    assert await sql.fetchval("select suspected_gap from fine_tuning.jobs")


@pytest.mark.parametrize("steps", [(80, 160, 240), (100, 200), (80, 90, 100), (1000, 2000), (10, 20, 30)])
async def test_recorded_jobs(store: Store, provider: Provider, steps: Sequence[int]) -> None:
    """No gap is suspected for the steps that providers really listed."""
    assert (False, 0) == await _suspected(store, provider, steps)
