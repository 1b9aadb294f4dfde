"""The step curves of the Grafana dashboards: few enough points to draw, and nothing of the curve is lost or mixed."""

from datetime import UTC, datetime

import asyncpg
import pytest

from support import grafana, history
from support.grafana import DASHBOARDS, Range

STEPS = 6000
MOST_GROUPS = 501
"""Each group of steps has two points, and each step with a validation one."""


@pytest.fixture
async def job(sql: asyncpg.Connection) -> str:
    """Return a job with four checkpoints, and many steps, every tenth of which has validation. The first ones lack."""
    await history.fill(sql, jobs=20, checkpoints=4)
    job = await sql.fetchval("select id from fine_tuning.jobs where checkpoint_count = 4 order by id limit 1")
    await history.add_events(sql, [job], steps=STEPS)
    await sql.execute("delete from checkpointd.steps where step_number < 60")
    return str(job)


async def _rows(sql: asyncpg.Connection, panel: str, job: str, metric: str = "train_loss") -> list[asyncpg.Record]:
    """Return the rows of a panel for a job."""
    query = next(query for _, title, query in grafana.queries() if title == panel)
    values = {"source": ["openai", "azure", "gateway"], "job": [job], "metric": [metric]}
    time_range = Range.of(DASHBOARDS["training-curves.json"], datetime.now(UTC))
    return await sql.fetch(grafana.expand(query, values, time_range))


async def test_extremes_remain(sql: asyncpg.Connection, job: str) -> None:
    """Of thousands of steps a chart gets at most two in each of 500 groups, which are the lowest and the highest."""
    rows = await _rows(sql, "$metric of each step", job)
    assert 900 < len(rows) <= 2 * MOST_GROUPS
    groups = await sql.fetch(
        """
        select unnest(array[min(train_loss), max(train_loss)]) from fine_tuning.steps
        where fine_tuning_job_id = $1 group by step_number / 13""",
        job,
    )
    assert {row[0] for row in groups} == {row["value"] for row in rows}


async def test_rewards(sql: asyncpg.Connection, job: str) -> None:
    """A metric that has no column of its own has a curve, too."""
    await sql.execute("""
        update checkpointd.steps set extra_metrics = jsonb_build_object('reward', step_number / 4.0)
        where step_number % 1000 = 0""")
    rows = await _rows(sql, "$metric of each step", job, "reward")
    assert [(step, job, step / 4) for step in range(1000, STEPS + 1, 1000)] == [tuple(row) for row in rows]


@pytest.mark.parametrize(("panel", "metric"), [("Loss by step", "loss"), ("Accuracy by step", "mean_token_accuracy")])
async def test_steps_and_checkpoints_are_apart(sql: asyncpg.Connection, job: str, panel: str, metric: str) -> None:
    """The curve of a job has each value of validation, and each checkpoint with its own values beside it."""
    rows = await _rows(sql, panel, job)
    assert len(rows) <= 2 * MOST_GROUPS + STEPS // 10 + 4
    of_steps = await sql.fetch(
        f"select step_number, valid_{metric} from fine_tuning.steps"
        f" where fine_tuning_job_id = $1 and valid_{metric} is not null order by step_number",
        job,
    )
    assert STEPS // 10 - 5 == len(of_steps)
    assert [tuple(row) for row in of_steps] == [
        (row["step_number"], row["validation"]) for row in rows if row["validation"] is not None
    ]
    of_checkpoints = await sql.fetch(
        f"select step_number, train_{metric}, full_valid_{metric} from fine_tuning.checkpoints"
        " where fine_tuning_job_id = $1 order by step_number",
        job,
    )
    assert [tuple(row) for row in of_checkpoints] == [
        (row["step_number"], row["checkpoint: train"], row["checkpoint: full validation"])
        for row in rows
        if row["checkpoint: train"] is not None
    ]
    assert {None} == {row["full validation"] for row in rows}
