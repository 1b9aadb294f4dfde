"""Objectives: by which metric the best checkpoint of a job is chosen. Expected checkpoints were found by hand."""

from typing import Any

import asyncpg
import pytest

from checkpointd.postgres import connection, migrations, objectives
from checkpointd.postgres.objectives import set_objective, set_source_objectives
from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync, track
from support.logins import connected
from support.provider import JOB, Provider, checkpoint, job, page

BEST = """select step_number, rule, direction, set_for, value, covered, checkpoints from fine_tuning.best_checkpoints
    where fine_tuning_job_id = $1"""
REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": {}}}


def _item(step: int, of: str = JOB, **metrics: float | None) -> dict[str, Any]:
    """Return a checkpoint with these metrics only."""
    return {**checkpoint(step, of), "step_number": step, "metrics": metrics}


async def _best(sql: asyncpg.Connection, of: str = JOB) -> tuple[Any, ...]:
    return tuple(await sql.fetchrow(BEST, of) or ())


@pytest.mark.parametrize(
    ("expected", "metrics"),
    [
        ((3, "train_mean_reward", "maximize", 3), [{"train_mean_reward": n / 10} for n in (1, 2, 3)]),
        (
            (1, "full_valid_mean_reward", "maximize", 2),
            [{"train_mean_reward": n, "full_valid_mean_reward": {1: 0.9, 2: 0.5}.get(n)} for n in (1, 2, 3)],
        ),
        (  # full validation has too few values
            (2, "val/reward", "maximize", 3),
            [{"val/reward": {2: 9}.get(n, 1), "full_valid_reward": {1: 1}.get(n), "reward": n} for n in (1, 2, 3)],
        ),
        (  # the metric that most checkpoints have; then the mean; never the spread
            (1, "critic/rewards/mean", "maximize", 3),
            [{"critic/rewards/mean": -n, "critic/rewards/max": n, "reward_std": n, "reward_x": n} for n in (1, 2, 3)],
        ),
        ((2, "valid_loss", "minimize", 2), [{"valid_loss": 3 - n, "rewards/chosen": n} for n in (1, 2)]),
        ((3, "train_loss", "minimize", 3), [{"train_loss": 3 - n} for n in (1, 2, 3)]),
        ((None, None, None, 0), [{"entropy": n} for n in (1, 2)]),
    ],
)
async def test_default(
    store: Store, provider: Provider, sql: asyncpg.Connection, expected: tuple[Any, ...], metrics: list[dict[str, Any]]
) -> None:
    """By default rewards are maximized, or losses minimized: full validation before validation before training."""
    provider.checkpoints[JOB] = page([_item(n, **values) for n, values in enumerate(metrics, 1)])
    await sync(store, provider)
    step, rule, direction, set_for, value, covered, candidates = await _best(sql)
    assert expected == (step, rule, direction, covered)
    assert ("default", len(metrics)) == (set_for, candidates)
    assert value == (metrics[step - 1][rule] if step else None)


async def test_losses_of_reinforcement(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A reinforcement job without a reward has no default objective: the loss of a policy says nothing about it."""
    await track(store)
    provider.jobs = page([job(method=REINFORCEMENT)])
    await read_job_list(store, provider)
    provider.checkpoints[JOB] = page([_item(n, train_loss=n, valid_loss=n) for n in (1, 2)])
    await sync(store, provider)
    assert (None, None, None, "default", None, 0, 2) == await _best(sql)


async def test_method_that_is_known_late(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """When a job record says the method, the best checkpoint is chosen again: a loss counts or no longer counts."""
    provider.checkpoints[JOB] = page([_item(n, train_loss=n) for n in (1, 2)])
    await sync(store, provider)
    by_loss, by_none = (1, "train_loss", "minimize", "default", 1, 2, 2), (None, None, None, "default", None, 0, 2)
    assert by_loss == await _best(sql)
    for method, expected in ((REINFORCEMENT, by_none), ({"type": "supervised"}, by_loss)):
        provider.jobs = page([job(method=method)])
        await read_job_list(store, provider)
        assert expected == await _best(sql)


async def test_method_of_a_locked_job(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another transaction has locked a job, a record with another method is not stored, but left for later."""
    monkeypatch.setattr(connection, "LOCK_RETRY_DELAYS", ())
    provider.checkpoints[JOB] = page([_item(1, train_loss=1)])
    await sync(store, provider)
    provider.jobs = page([job()])
    await read_job_list(store, provider)
    provider.jobs = page([job(method=REINFORCEMENT)])
    payload = "select payload::text from checkpointd.jobs"
    before = await sql.fetchval(payload)
    async with sql.transaction():
        await sql.execute("select from checkpointd.polling for no key update")
        await read_job_list(store, provider)
        assert before == await sql.fetchval(payload)
    await read_job_list(store, provider)
    assert (None, None, None, "default", None, 0, 1) == await _best(sql)


async def test_objectives_of_a_source_and_of_a_job(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs of a source follow its objective at once and in later polls, except those with one of their own."""
    monkeypatch.setattr(objectives, "JOBS_AT_ONCE", 1)
    items = {of: [_item(n, of, reward=n, cost=n, valid_loss=n) for n in (1, 2, 3)] for of in (JOB, "ftjob-2")}
    for of, listed in items.items():
        provider.checkpoints[of] = page(listed)
    await sync(store, provider, *items)
    (key,) = (await store.register_sources({"test": "openai"})).values()
    own = (await store.find_jobs(["ftjob-2"]))[0]

    best = await set_objective(store, own, ("cost", "minimize"))
    assert best is not None
    assert (1, "cost", "minimize", "job", 1, 3, 3) == tuple(
        best[f"best_{name}"] for name in ("step", "rule", "direction", "set_for", "value", "covered", "candidates")
    )
    await set_source_objectives(store, {key: ("valid_loss", "maximize")})
    assert (3, "valid_loss", "maximize", "source", 3, 3, 3) == await _best(sql)
    assert (1, "cost", "minimize", "job", 1, 3, 3) == await _best(sql, "ftjob-2")

    for of, listed in items.items():
        provider.checkpoints[of] = page([*listed, _item(4, of, reward=0, cost=0, valid_loss=4)])
    await sync(store, provider, *items)
    assert (4, "valid_loss", "maximize", "source", 4, 4, 4) == await _best(sql)
    assert (4, "cost", "minimize", "job", 0, 4, 4) == await _best(sql, "ftjob-2")

    await set_objective(store, own, None)
    assert (4, "valid_loss", "maximize", "source", 4, 4, 4) == await _best(sql, "ftjob-2")
    await set_source_objectives(store, {key: None})
    for of in items:
        assert (3, "reward", "maximize", "default", 3, 4, 4) == await _best(sql, of)


async def test_objective_without_values(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If no checkpoint has the metric that was set, there is no best one, and the coverage says so."""
    await track(store)
    (found,) = await store.find_jobs([JOB])
    assert None is await set_objective(store, found, ("reward", "maximize"))
    provider.checkpoints[JOB] = page([_item(1, valid_loss=1)])
    await sync(store, provider)
    assert (None, "reward", "maximize", "job", None, 0, 1) == await _best(sql)


async def test_locked_job_follows_later(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that another transaction has locked is left out, and follows its source at the next call."""
    provider.checkpoints[JOB] = page([_item(n, reward=n, cost=n) for n in (1, 2)])
    await sync(store, provider)
    (key,) = (await store.register_sources({"test": "openai"})).values()
    async with sql.transaction():
        await sql.execute("select from checkpointd.polling for no key update")
        await set_source_objectives(store, {key: ("cost", "minimize")})
    assert "default" == (await _best(sql))[3]
    await set_source_objectives(store, {key: ("cost", "minimize")})
    assert (1, "cost", "minimize", "source", 1, 2, 2) == await _best(sql)


async def test_operators_set_objectives(url: str, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An operator sets the objective of a job, also of one that is no longer tracked; the operation is recorded."""
    provider.checkpoints[JOB] = page([_item(n, reward=n, cost=n) for n in (1, 2)])
    await sync(store, provider)
    await store.untrack(await store.find_jobs([JOB]))
    async with connected(url, "in role checkpointd_operator") as operator:
        await operator.execute("select fine_tuning.set_objective($1, 'cost', 'minimize')", JOB)
        assert (1, "cost", "minimize", "job", 1, 2, 2) == await _best(sql)
        await operator.execute("select fine_tuning.set_objective($1, source => 'test')", JOB)
        assert (2, "reward", "maximize", "default", 2, 2, 2) == await _best(sql)
        name = await operator.fetchval("select session_user")
    rows = await sql.fetch("select operation, role from fine_tuning.operations order by at desc limit 2")
    assert 2 * [("objective", name)] == [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("an objective has a metric and a direction", "'ftjob-abc123', 'reward'"),
        ("an objective has a metric and a direction", "'ftjob-abc123', null, 'minimize'"),
        ('invalid direction: "up"', "'ftjob-abc123', 'reward', 'up'"),
        ('invalid name of a metric: ""', "'ftjob-abc123', '', 'minimize'"),
        ("invalid name of a metric: ", "'ftjob-abc123', repeat('x', 129), 'minimize'"),
        ('job "ftjob-2" is not known', "'ftjob-2', 'reward', 'maximize'"),
    ],
)
async def test_wrong_objectives(url: str, store: Store, message: str, call: str) -> None:
    """An objective that cannot be set fails with a message in PostgreSQL's style."""
    await track(store)
    async with connected(url, "in role checkpointd_operator") as operator:
        with pytest.raises(asyncpg.PostgresError, match=message) as caught:
            await operator.execute(f"select fine_tuning.set_objective({call})")
        assert caught.value.sqlstate in {"22023", "P0002"}


@pytest.mark.parametrize(
    "before",
    [
        "best_rule = null, best_direction = null, best_id = null, best_covered = 0",
        "best_rule = 'train_loss', best_direction = 'minimize'",
    ],
    ids=["none", "by its loss"],
)
async def test_upgrade_chooses_by_reward(
    store: Store, provider: Provider, sql: asyncpg.Connection, before: str
) -> None:
    """An upgrade chooses the best checkpoint by its reward, where earlier versions chose none, or one by its loss."""
    provider.checkpoints[JOB] = page([_item(n, reward=n) for n in (1, 2)])
    await sync(store, provider)
    await sql.execute(f"""
        update checkpointd.summaries set {before};
        delete from checkpointd.schema_migrations where name like 'views%'""")
    async with store.connection() as opened:
        await migrations.migrate(opened)
    assert (2, "reward", "maximize", "default", 2, 2, 2) == await _best(sql)
