"""The curves of steps: what remains of a long one, its moving average, and how checkpoints are shown on it."""

import math
import re
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.postgres import queries
from checkpointd.postgres.snapshot import CurveRequest, snapshot
from checkpointd.postgres.store import Store
from checkpointd.web.chart import Point
from checkpointd.web.curves import Curve, Part, group, line, smooth
from checkpointd.web.figures import Figure, Mark, Named, figure
from checkpointd.web.view import View
from support import history
from support.stored import fill

PARTS = 150


def _curve(values: list[float], first: int = 1) -> Curve:
    """Return a curve with one step in each part."""
    points = [Point(float(step), value) for step, value in enumerate(values, first)]
    return [Part(step, step, step, point, point, point, 1) for step, point in enumerate(points, first)]


async def _long_job(sql: asyncpg.Connection, steps: int) -> str:
    await fill(sql, jobs=1, checkpoints=3)
    job: str = await sql.fetchval("select id from fine_tuning.jobs")
    await history.add_events(sql, [job], steps)
    return job


async def test_extremes_remain(store: Store, sql: asyncpg.Connection) -> None:
    """Of a curve of 10,000 steps, each single high or low value remains at its step, and there are few points."""
    job = await _long_job(sql, 10_000)
    await sql.execute(
        """update checkpointd.steps set train_loss = case step_number when 1234 then 99 else -7 end
        where step_number in (1234, 7777)"""
    )
    request = CurveRequest("large", job, 1.0, None, 1)
    async with snapshot(store) as views:
        rows = await views.list_step_curves([request], [], PARTS)
        (sample,) = [await views.list_step_curves([request._replace(every=50)], [], PARTS)]
    curves = group(rows, [], 1.0)
    drawn = line(curves[1, "train_loss"])
    assert {Point(1234.0, 99.0), Point(7777.0, -7.0)} <= set(drawn)
    assert PARTS < len(drawn) <= 2 * PARTS
    assert sorted(drawn) == drawn
    assert 10_000 == sum(row["count"] for row in rows if row["metric"] == 1)
    assert 1_000 == sum(row["count"] for row in rows if row["metric"] == 2)
    assert 100 < sum(row["count"] for row in sample if row["metric"] == 1) < 400


async def test_first_and_last_step(sql: asyncpg.Connection) -> None:
    """The first and the last step of a job are found by the index, without reading the steps between them."""
    await _long_job(sql, 10_000)
    columns = "step_count, first_step, last_step"
    assert (10_000, 1, 10_000) == tuple(await sql.fetchrow(f"select {columns} from fine_tuning.event_lists"))
    plan = await sql.fetch(f"explain (analyze, timing off) select {columns} from fine_tuning.event_lists")
    read = [row[0] for row in plan if "on steps" in row[0]]
    assert 2 == len(read)
    assert all("Index" in line and re.search(r"actual rows=1(\.00)? loops=1\b", line) for line in read)


async def test_names_of_metrics(sql: asyncpg.Connection) -> None:
    """Metrics that few steps or checkpoints have are found, in the last ones only: not all steps are read."""
    await fill(sql, jobs=20, checkpoints=3)
    jobs = [row["id"] for row in await sql.fetch("select id from fine_tuning.jobs")]
    await history.add_events(sql, jobs, 1000)
    await sql.execute(
        """update checkpointd.steps set extra_metrics = case
          when step_number % 49 = 0 then '{"valid_reward": 1, "cost": 2}'
          when step_number < 900 then '{"early": 1}'
        end::jsonb"""
    )
    await sql.execute(
        """update checkpointd.checkpoints set extra_metrics = '{"score": 1}'
        where step_number = (select min(step_number) from checkpointd.checkpoints)"""
    )
    await sql.execute("vacuum analyze checkpointd.steps")
    reads = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'steps'"
    async with sql.transaction():
        before = await sql.fetchval(reads)
        (training,) = await sql.fetch(queries.LIST_TRAINING, ["large"], jobs[:1], 10)
        assert before < await sql.fetchval(reads) < before + 200
    assert ["valid_reward", "cost", "score"] == training["names"]


@pytest.mark.parametrize("steps", [(-(2**63), 2**63 - 1), (2**63 - 1,), (-(2**63),)])
async def test_names_of_metrics_at_the_ends(sql: asyncpg.Connection, steps: tuple[int, ...]) -> None:
    """The last steps are found whatever their numbers are."""
    job = await _long_job(sql, len(steps))
    for n, step in enumerate(steps, 1):
        await sql.execute(
            """update checkpointd.steps set step_number = $2, extra_metrics = '{"cost": 1}' where step_number = $1""",
            n,
            step,
        )
    (training,) = await sql.fetch(queries.LIST_TRAINING, ["large"], [job], 10)
    assert ["cost"] == training["names"]


async def test_values_that_cannot_be_drawn(store: Store, sql: asyncpg.Connection) -> None:
    """Values that are not finite are left out, and values whose sum is too large have no mean."""
    job = await _long_job(sql, 4)
    await sql.execute(
        """update checkpointd.steps set step_number = step_number * 2305843009213693950,
          train_loss = (array['NaN', 'Infinity', 1.7e308, -1.7e308]::float8[])[step_number]
        where step_number < 4 or train_loss is not null"""
    )
    async with snapshot(store) as views:
        rows = await views.list_step_curves([CurveRequest("large", job, 1.0, None, 1)], [], 1)
    (only,) = [row for row in rows if row["metric"] == 1]
    assert (-1.7e308, 1.7e308, None, 2) == (only["least"], only["greatest"], only["mean"], only["count"])


@pytest.mark.parametrize(
    ("axis", "expected"), [((1.0, None), [40.0, 80.0, 120.0]), ((0.025, None), [1.0, 2.0, 3.0]), ((None, None), [])]
)
async def test_job_without_steps(store: Store, sql: asyncpg.Connection, axis: Any, expected: list[float]) -> None:
    """The curve of a job without steps is that of its checkpoints. It is empty if the axis is not known."""
    await fill(sql, jobs=1, checkpoints=3)
    job = await sql.fetchval("select id from fine_tuning.jobs")
    async with snapshot(store) as views:
        rows = await views.list_step_curves([CurveRequest("large", job, *axis, 0)], [], PARTS)
    assert expected == [point.x for point in line(group(rows, [], 1.0).get((1, "train_loss"), ()))]


def test_moving_average() -> None:
    """Each point of a smoothed curve is the mean of the values near it, by their number. The ends are exact."""
    curve = _curve([1.0, 2.0, 6.0, 0.0, 4.0])
    assert [1.0, 3.0, pytest.approx(8 / 3), pytest.approx(10 / 3), 4.0] == [y for _, y in smooth(curve, 0.25)]
    weighted = [curve[0]._replace(values=3), *curve[1:3]]
    assert [1.0, pytest.approx(11 / 5), 6.0] == [y for _, y in smooth(weighted, 1.0)]
    assert [] == smooth([curve[0]._replace(mean=Point(1.0, None))], 0.1)


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=50), st.floats(0, 1))
def test_averages_are_inside(values: list[float], share: float) -> None:
    """A moving average has as many points as the curve has parts, between its least and its greatest value."""
    smoothed = [y for _, y in smooth(_curve(values), share)]
    assert len(values) == len(smoothed)
    margin = 1e-9 * max(map(abs, values))
    assert all(y is not None and min(values) - margin <= y <= max(values) + margin for y in smoothed)


def _figure(marks: list[Mark], *curves: Curve, **view: str) -> Figure:
    named = [Named(name, name, curve) for name, curve in zip(("train", "valid"), curves, strict=False)]
    drawn = figure("Loss", "step", named, marks, View.read(view))
    assert drawn is not None
    return drawn


def test_checkpoints_on_a_curve() -> None:
    """A checkpoint is shown with its own values. What it lacks is shown as the value of the event."""
    drawn = _figure([Mark(2, 2.0, ["step 2", "best"], [0.25, None], True, False)], _curve([1, 0.5]), _curve([3.0], 2))
    assert ["step 1: train 1.0000", "step 2, best, latest: train 0.2500, valid 3.0000 (event)"] == [
        point.label for point in drawn.points
    ]
    assert [[None], [100 - 100 * 0.06 / 1.12, None]] == [
        [value.height and pytest.approx(value.height, abs=1) for value in point.values] for point in drawn.points
    ]


def test_steps_that_lie_close_together() -> None:
    """A point that stands for several steps shows their range."""
    part = Part(0, 1, 1500, Point(7.0, 0.5), Point(9.0, 0.75), Point(8.0, 0.6), 1500)
    assert ["steps 1 to 1,500, latest: train 0.5000 to 0.7500"] == [point.label for point in _figure([], [part]).points]


def test_views() -> None:
    """Smoothing adds a line to the exact one, and a logarithmic scale leaves out values up to 0."""
    curve = _curve([0.0, *(n * n for n in range(1, 12))])
    (exact,) = _figure([], curve).lines
    assert ("", 12) == (exact.exact, len(exact.path.split("L")))
    (smoothed,) = _figure([], curve, smoothing="strong").lines
    assert (exact.path, True) == (smoothed.exact, smoothed.path != exact.path)
    (logarithmic,) = _figure([], curve, scale="log").lines
    assert 11 == len(logarithmic.path.split("L"))


def test_nothing_to_draw() -> None:
    """Without a value that can be drawn there is no chart."""
    assert None is figure("Loss", "step", [Named("train", "train", ())], [], View())
    marks = [Mark(1, 1.0, [], [math.nan], False, False)]
    assert None is figure("Loss", "step", [Named("train", "train", ())], marks, View())


def test_view_of_an_address() -> None:
    """A view is read from an address, and unknown words are the defaults. Its parameters lead to the same view."""
    assert View() == View.read({"axis": "x", "scale": "<b>", "smoothing": ""})
    for _, choices in View().choices():
        for _, view in choices:
            assert view == View.read(view.parameters())
    assert {"axis": "time"} == View(axis="time").parameters()
