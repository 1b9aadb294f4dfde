"""The geometry of charts: ticks at round values, and positions inside the drawing for all values."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.web.chart import Chart, Point, Target, draw, fit_scale, log_ticks, spans, ticks

MAX_FLOAT = 1.7976931348623157e308
METRICS = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 5e-324, -MAX_FLOAT, MAX_FLOAT])


def _draw(steps: list[int], curves: list[list[float | None]], *, log: bool = False) -> Chart:
    """Draw curves with a value or None at each step, and a target at each step."""
    lines = [[Point(x, y) for x, y in zip(steps, curve, strict=True)] for curve in curves]
    targets = [Target(step, [curve[n] for curve in curves]) for n, step in enumerate(steps)]
    return draw(lines, targets, log=log)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.2, 2.2], ["0.5", "1", "1.5", "2"]),
        ([0.77, 0.88], ["0.775", "0.8", "0.825", "0.85", "0.875"]),
        ([1200.0, 9800.0], ["2,000", "4,000", "6,000", "8,000", "10,000"]),
        ([10_000.0, 90_000.0], ["20,000", "40,000", "60,000", "80,000"]),
        ([500.0, 150_000.0], ["0", "50k", "100k", "150k"]),
        ([123_456.0, 123_459.5], ["123.456k", "123.457k", "123.458k", "123.459k"]),
        ([-1e6, 1e6], ["-1M", "-0.5M", "0", "0.5M", "1M"]),
        ([5e8, 2e9], ["5e+08", "1e+09", "1.5e+09", "2e+09"]),
        ([-1.0, 1.0], ["-1", "-0.5", "0", "0.5", "1"]),
        ([0.123451, 0.123459], ["0.123452", "0.123454", "0.123456", "0.123458"]),
        ([2e-7, 9e-7], ["2e-07", "4e-07", "6e-07", "8e-07"]),
        ([0.0, 8e300], ["0", "2e+300", "4e+300", "6e+300", "8e+300"]),
        ([0.5], ["0.46", "0.48", "0.5", "0.52", "0.54"]),
        ([6e-315, 6e-315 + 2e-323], ["-0.001", "-0.0005", "0", "0.0005", "0.001"]),
        ([1.74e308, 1.76e308], ["1.74e+308", "1.745e+308", "1.75e+308", "1.755e+308", "1.76e+308"]),
        ([0.0, 0.0], ["-0.001", "-0.0005", "0", "0.0005", "0.001"]),
        ([], ["0", "0.25", "0.5", "0.75", "1"]),
    ],
)
def test_ticks_are_round(values: list[float], labels: list[str]) -> None:
    """The ticks of an axis are at round values inside it, whatever its size, and their labels are short."""
    assert labels == [tick.label for tick in ticks(fit_scale(values))]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.2, 2.2], ["0.2", "0.5", "1", "2"]),
        ([0.5, 0.9], ["0.5", "0.6", "0.7", "0.8", "0.9"]),
        ([1e-5, 900], ["1e-05", "0.001", "0.1", "10", "1,000"]),
        ([3e-9, 40], ["1e-09", "1e-07", "1e-05", "0.001", "0.1", "10"]),
        ([1e-300, 1e300], ["1e-307", "1e-204", "1e-101", "100", "1e+105", "1e+208"]),
        ([0.5], ["0.48", "0.5", "0.52"]),
        ([], ["1", "2", "5", "10"]),
    ],
)
def test_ticks_of_logarithms_are_round(values: list[float], labels: list[str]) -> None:
    """The ticks of a logarithmic axis are at round values inside it, whatever its size."""
    assert labels == [tick.label for tick in log_ticks(fit_scale([math.log10(value) for value in values]))]


def test_steps_are_integers() -> None:
    """The ticks of the steps are at integers."""
    assert ["1", "2", "3"] == [tick.label for tick in _draw([1, 2, 3], [[1.0, 2.0, 3.0]]).x_ticks]
    assert ["7"] == [tick.label for tick in _draw([7], [[1.0]]).x_ticks]


def test_positions() -> None:
    """Positions are proportional to step and value, and each step has the part of the width that is nearest to it."""
    drawn = _draw([0, 10, 40], [[1.0, 2.0, 3.0], [None, 1.0, None]])
    assert [0.0, 25.0, 100.0] == [target.x for target in drawn.targets]
    assert [(0.0, 12.5), (12.5, 50.0), (62.5, 37.5)] == [(target.left, target.width) for target in drawn.targets]
    first, middle, last = (target.heights for target in drawn.targets)
    assert last[0] == pytest.approx(100 - first[0])  # type: ignore[operator]
    assert [50.0, first[0]] == middle
    assert [None, None] == [first[1], last[1]]


def test_logarithms() -> None:
    """On a logarithmic axis equal factors are equal distances, and values up to 0 are left out."""
    drawn = _draw([0, 1, 2, 3, 4], [[0.1, 1.0, 10.0, 0.0, -1.0]], log=True)
    low, middle, high, *left_out = (target.heights[0] for target in drawn.targets)
    assert (50.0, 100.0) == (middle, pytest.approx(low + high))  # type: ignore[operator]
    assert [None, None] == left_out
    assert 3 == len(re.findall(r"[ML]", drawn.lines[0].path))


def test_a_curve_skips_absent_values() -> None:
    """A curve skips values that are absent or cannot be drawn, and a curve of one point is a dot."""
    drawn = _draw([0, 1, 2], [[1.0, None, 2.0], [1.0, math.nan, math.inf], [None, None, None]])
    assert re.fullmatch(r"M0 \S+L1000 \S+", drawn.lines[0].path)
    assert re.fullmatch(r"M0 (\S+)L0 \1", drawn.lines[1].path)
    assert "" == drawn.lines[2].path


def test_no_steps() -> None:
    """Without steps a chart has no targets, and its paths are empty."""
    assert ([], [""]) == (_draw([], [[]]).targets, [line.path for line in _draw([], [[]]).lines])


def test_adjacent_spans_are_merged() -> None:
    """The parts of chosen steps that are adjacent become one span."""
    targets = _draw([0, 1, 2, 3, 4], [[1.0] * 5]).targets
    assert [(0.0, 37.5), (87.5, 12.5)] == spans(targets, [True, True, False, False, True])


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), METRICS, METRICS), max_size=20), st.booleans())
def test_everything_is_inside(rows: list[tuple[int, float | None, float | None]], log: bool) -> None:
    """For all numbers, all positions are finite and inside the drawing, and the ticks are few and distinct."""
    rows.sort(key=lambda row: row[0])
    drawn = _draw([row[0] for row in rows], [[row[1] for row in rows], [row[2] for row in rows]], log=log)
    positions = [tick.position for tick in (*drawn.x_ticks, *drawn.y_ticks)]
    for target in drawn.targets:
        positions += [target.x, target.left, target.left + target.width]
        positions += [y for y in target.heights if y is not None]
    assert all(-0.01 <= position <= 100.01 for position in positions)
    assert len(drawn.x_ticks) <= 6
    assert len(drawn.y_ticks) <= 6
    for axis in (drawn.x_ticks, drawn.y_ticks):
        assert all(re.fullmatch(r"[-+\d.,ekM]{1,18}", tick.label) for tick in axis)
        assert len(axis) == len({tick.label for tick in axis})
    assert all(re.fullmatch(r"(M[\d. ]+(L[\d. ]+)+)?", line.path) for line in drawn.lines)
