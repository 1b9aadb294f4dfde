"""Curves become geometry: round marks, places inside the drawing, whatever the values are."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.web.chart import draw, scale, spans, ticks

LARGEST = 1.7976931348623157e308
Value = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 5e-324, -LARGEST, LARGEST])


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
def test_round_marks(values: list[float], labels: list[str]) -> None:
    """The marks of an axis stand at round values inside it, whatever its size, and are short."""
    assert labels == [tick.label for tick in ticks(scale(values), 5)]


def test_steps_are_whole() -> None:
    """A step is never marked between two whole numbers."""
    assert ["1", "2", "3"] == [tick.label for tick in draw([1, 2, 3], [[1.0, 2.0, 3.0]]).across]
    assert ["7"] == [tick.label for tick in draw([7], [[1.0]]).across]


def test_places() -> None:
    """Points stand in proportion to step and value, the largest at the top; each has half the way to its sides."""
    drawn = draw([0, 10, 40], [[1.0, 2.0, 3.0], [None, 1.0, None]])
    assert [0.0, 25.0, 100.0] == [mark.at for mark in drawn.marks]
    assert [(0.0, 12.5), (12.5, 50.0), (62.5, 37.5)] == [(mark.left, mark.width) for mark in drawn.marks]
    first, middle, last = (mark.heights for mark in drawn.marks)
    assert last[0] == pytest.approx(100 - first[0])  # type: ignore[operator]
    assert [50.0, first[0]] == middle
    assert [None, None] == [first[1], last[1]]


def test_a_curve_joins_what_it_has() -> None:
    """Where a value is not known, or none that can be drawn, a curve goes on to the next; a single point is a dot."""
    drawn = draw([0, 1, 2], [[1.0, None, 2.0], [1.0, math.nan, math.inf], [None, None, None]])
    assert re.fullmatch(r"M0 \S+L1000 \S+", drawn.paths[0])
    assert re.fullmatch(r"M0 (\S+)L0 \1", drawn.paths[1])
    assert "" == drawn.paths[2]


def test_nothing_to_draw() -> None:
    """Without steps there are no marks and no lines."""
    assert ([], [""]) == (draw([], [[]]).marks, draw([], [[]]).paths)


def test_neighbours_are_one_span() -> None:
    """Chosen points that stand beside each other are one part of the drawing."""
    marks = draw([0, 1, 2, 3, 4], [[1.0] * 5]).marks
    assert [(0.0, 37.5), (87.5, 12.5)] == spans(marks, [True, True, False, False, True])


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), Value, Value), max_size=20))
def test_everything_stays_inside(rows: list[tuple[int, float | None, float | None]]) -> None:
    """Whatever numbers a provider sends, all places are finite and inside, and marks are few and differ."""
    rows.sort(key=lambda row: row[0])
    drawn = draw([row[0] for row in rows], [[row[1] for row in rows], [row[2] for row in rows]])
    places = [tick.at for tick in (*drawn.across, *drawn.down)]
    for mark in drawn.marks:
        places += [mark.at, mark.left, mark.left + mark.width, *(y for y in mark.heights if y is not None)]
    assert all(-0.01 <= place <= 100.01 for place in places)
    assert len(drawn.across) <= 6
    assert len(drawn.down) <= 6
    for axis in (drawn.across, drawn.down):
        assert all(re.fullmatch(r"[-+\d.,ekM]{1,18}", tick.label) for tick in axis)
        assert len(axis) == len({tick.label for tick in axis})
    assert all(re.fullmatch(r"(M[\d. ]+(L[\d. ]+)+)?", path) for path in drawn.paths)
