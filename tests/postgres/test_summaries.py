"""Summaries of a job's checkpoints: gaps, epochs, the final one, the best one. Expected values were found by hand."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync, track
from support.provider import JOB, Provider, checkpoint, error, job, page

Items = list[dict[str, Any]]


async def _listed(store: Store, provider: Provider, *listings: Items) -> None:
    for listing in listings:
        provider.checkpoints[JOB] = page(listing)
        await sync(store, provider)


@pytest.mark.parametrize(
    ("expected", "steps"),
    [
        (False, []),
        (False, [100]),
        (False, [100, 200, 300]),
        (False, [80, 90, 100]),  # it is unknown what came before the first
        (False, [100, 250, 350]),  # 150 is not more than 1.5 times 100
        (False, [33, 66, 100]),
        (True, [100, 200, 400]),
        (True, [10, 20, 30, 40, 56]),
        (False, [10, 20, 30, 40, 55]),
        (False, [10, 10, 20, 30]),
        (False, [50, 100, 120]),  # the last step can be nearer
        (False, [100, 110, 200]),  # no distance occurs twice
        (False, [100, 200, 205, 300]),  # a snapshot between two epochs
        (True, [80, 90, 100, 120]),
    ],
)
async def test_gap_between_steps(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: bool, steps: list[int]
) -> None:
    """A gap is suspected if two neighbouring steps are more than 1.5 times the usual distance apart."""
    items = [{**checkpoint(n), "step_number": step} for n, step in enumerate(steps, 1)]
    await _listed(store, provider, items)
    assert (expected, len(steps)) == tuple(
        await sql.fetchrow("select suspected_gap, checkpoint_count from fine_tuning.jobs") or ()
    )


async def test_gap_that_is_filled(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint that is listed late fills its gap."""
    await _listed(store, provider, [checkpoint(n) for n in (1, 2, 4)])
    assert await sql.fetchval("select suspected_gap from fine_tuning.jobs")
    await _listed(store, provider, [checkpoint(n) for n in (1, 2, 3, 4)])
    assert not await sql.fetchval("select suspected_gap from fine_tuning.jobs")


@pytest.mark.parametrize(
    ("expected", "listings"),
    [
        (False, [range(1, 10)]),
        (False, [[], range(1, 5)]),
        (False, [range(1, 2), range(1, 6)]),  # no step is absent
        (True, [[], range(4, 8)]),
        (True, [[], range(4, 8), range(4, 9), range(4, 10)]),
        (False, [[], range(4, 8), range(1, 8)]),  # the first ones came late
        (False, [range(4, 8), range(4, 12)]),  # it is unknown what came before the first listing
        (False, [[], range(4, 7)]),
    ],
)
async def test_burst(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: bool, listings: list[Sequence[int]]
) -> None:
    """A gap is suspected if the first checkpoints are more than three, after an empty listing, and begin too late."""
    await _listed(store, provider, *[[checkpoint(n) for n in listing] for listing in listings])
    assert expected == await sql.fetchval("select suspected_gap from fine_tuning.jobs")


async def test_first_listing_in_two_parts_is_no_burst(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """The checkpoints that an incomplete first listing lacked are no burst when they are listed."""
    items = [checkpoint(n) for n in range(9, 0, -1)]
    provider.checkpoints[JOB] = [page(items[:2], has_more=True), error(500)]
    await sync(store, provider)
    await _listed(store, provider, items)
    assert (9, False) == tuple(await sql.fetchrow("select checkpoint_count, suspected_gap from fine_tuning.jobs") or ())


@pytest.mark.parametrize(
    ("n_epochs", "steps", "expected"),
    [
        (3, [100, 200, 300], [1, 2, 3]),
        (10, [80, 90, 100], [8, 9, 10]),  # the provider lists the last three only
        (3, [33, 67, 100], [1, 2, 3]),  # epochs that do not divide evenly into steps
        (30, [33, 67, 100], [1, 2, 3]),
        (3, [100, 200, 400], [None, None, None]),  # a step after the last epoch: checkpoints are no epochs here
        (2, [100, 200, 300], [None, None, None]),
        (4, [100, 200, 260, 400], [1, 2, None, 4]),
        (3, [100], [None]),  # the distance is unknown
        ("auto", [100, 200], [None, None]),
        (None, [100, 200], [None, None]),
        (3, [0, 100, 200], [None, 1, 2]),
    ],
)
async def test_epoch(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    n_epochs: Any,
    steps: list[int],
    expected: list[int | None],
) -> None:
    """The epoch results from the job's n_epochs and the distance of its steps, if both are known and consistent."""
    await track(store)
    provider.jobs = page([job(hyperparameters={"n_epochs": n_epochs})])
    await read_job_list(store, provider)
    await _listed(store, provider, [{**checkpoint(n), "step_number": step} for n, step in enumerate(steps, 1)])
    rows = await sql.fetch("select epoch from fine_tuning.checkpoints order by step_number")
    assert expected == [row["epoch"] for row in rows]


@pytest.mark.parametrize(
    "method",
    [
        {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 3, "beta": 0.1}}},
        {"type": "reinforcement", "reinforcement": {"grader": {}, "hyperparameters": {"n_epochs": 3.0}}},
    ],
)
async def test_epoch_by_the_method(
    store: Store, provider: Provider, sql: asyncpg.Connection, method: dict[str, Any]
) -> None:
    """The n_epochs of jobs that are not supervised are read from their method."""
    await track(store)
    provider.jobs = page([job(hyperparameters=None, method=method)])
    await read_job_list(store, provider)
    await _listed(store, provider, [{**checkpoint(n), "step_number": 10 * n} for n in (1, 2, 3)])
    rows = await sql.fetch("select epoch from fine_tuning.checkpoints order by step_number")
    assert [1, 2, 3] == [row["epoch"] for row in rows]


@pytest.mark.parametrize(
    ("expected", "steps"),
    [
        ([8, 9, 10], [80, 90, 100]),
        ([None, None], [80, 100]),  # 90 is missing, so the distance of 20 would make these the fourth and the fifth
        ([None, None, None], [70, 80, 90]),  # the last one is missing
        ([None] * 20, [*range(5, 101, 5)]),  # two per epoch
    ],
)
async def test_epoch_of_a_job_that_succeeded(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: list[int | None], steps: list[int]
) -> None:
    """If the steps of a job that succeeded do not end with its last epoch, no checkpoint has an epoch."""
    await track(store)
    provider.jobs = page([job(status="succeeded", hyperparameters={"n_epochs": 10})])
    await read_job_list(store, provider)
    await _listed(store, provider, [{**checkpoint(n), "step_number": step} for n, step in enumerate(steps, 1)])
    rows = await sql.fetch("select epoch from fine_tuning.checkpoints order by step_number")
    assert expected == [row["epoch"] for row in rows]


async def test_final_checkpoint(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The final checkpoint has the job's fine-tuned model, or, while that is unknown, a model without :ckpt-step-N."""
    final = "select step_number from fine_tuning.checkpoints where is_final order by 1"
    plain = {**checkpoint(3), "fine_tuned_model_checkpoint": "ft:base:org::xyz"}
    await _listed(store, provider, [plain, checkpoint(2), checkpoint(1)])
    assert [3] == [row[0] for row in await sql.fetch(final)]
    model = checkpoint(2)["fine_tuned_model_checkpoint"]
    provider.jobs = page([job(status="succeeded", fine_tuned_model=model)])
    await read_job_list(store, provider)
    assert [2] == [row[0] for row in await sql.fetch(final)]


@pytest.mark.parametrize(
    ("expected", "losses"),
    [
        # (step, rule, checkpoints with that metric, checkpoints), (valid_loss, full_valid_loss) of the steps 1, 2, …
        ((2, "train_loss", 2, 2), [(None, None), (None, None)]),
        ((2, "full_valid_loss", 3, 3), [(0.1, 0.5), (0.2, 0.3), (0.3, 0.4)]),
        ((2, "full_valid_loss", 2, 3), [(0.1, 0.5), (0.2, 0.3), (0.3, None)]),  # the newest has it late
        ((1, "valid_loss", 3, 3), [(0.1, 0.5), (0.2, None), (0.3, None)]),
        ((1, "valid_loss", 1, 1), [(0.1, None)]),
        ((3, "full_valid_loss", 1, 3), [(None, None), (None, None), (None, 9.0)]),
        ((3, "valid_loss", 3, 3), [(0.5, None), (0.7, None), (0.5, None)]),  # of equal ones, the later
    ],
)
async def test_best(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    expected: tuple[Any, ...],
    losses: list[tuple[float | None, float | None]],
) -> None:
    """The best checkpoint has the smallest loss by the rule's metric. Of equal ones it is the later."""
    items = [checkpoint(n, valid_loss=v, full_valid_loss=f) for n, (v, f) in enumerate(losses, 1)]
    await _listed(store, provider, items)
    row = await sql.fetchrow("select step_number, rule, covered, checkpoints from fine_tuning.best_checkpoints")
    assert expected == tuple(row or ())


async def test_best_is_listed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The best checkpoint is one that is still listed, if there is one."""
    best = "select step_number, value, checkpoints, missing_since is null from fine_tuning.best_checkpoints"
    items = [checkpoint(n, valid_loss=n / 10) for n in (1, 2, 3)]
    await _listed(store, provider, items, items[1:], items[1:])
    assert (2, 0.2, 2, True) == tuple(await sql.fetchrow(best) or ())
    await _listed(store, provider, items)
    assert (1, 0.1, 3, True) == tuple(await sql.fetchrow(best) or ())
    await _listed(store, provider, [], [])
    assert (1, 0.1, 3, False) == tuple(await sql.fetchrow(best) or ())


async def test_not_a_number_never_wins(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A NaN in the table is not the best loss, and does not count as covered."""
    await _listed(store, provider, [checkpoint(n, valid_loss=n / 10) for n in (1, 2)])
    await sql.execute("update checkpointd.checkpoints set valid_loss = 'NaN' where step_number = 1")
    await sql.execute("select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs")
    row = await sql.fetchrow("select step_number, value, covered, checkpoints from fine_tuning.best_checkpoints")
    assert (2, 0.2, 1, 2) == tuple(row or ())


async def test_better_late_loss(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The best checkpoint follows a loss that is filled in late, or changes, at once."""
    best = "select step_number from fine_tuning.best_checkpoints"
    items = [checkpoint(1, valid_loss=0.5), checkpoint(2, valid_loss=0.4)]
    await _listed(store, provider, items)
    assert 2 == await sql.fetchval(best)
    await _listed(store, provider, [checkpoint(1, valid_loss=0.3), items[1]])
    assert 1 == await sql.fetchval(best)
