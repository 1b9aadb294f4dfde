"""The curves of metrics, reduced to the extremes in each part of the axis: their lines, as drawn and smoothed. Pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from checkpointd.presentation import Row
from checkpointd.web.chart import Point

DRAWN_COLUMNS: Final = (
    "train_loss",
    "valid_loss",
    "full_valid_loss",
    "train_mean_token_accuracy",
    "valid_mean_token_accuracy",
    "full_valid_mean_token_accuracy",
)
"""The metrics with a column of their own, in the order of their numbers."""


class Part(NamedTuple):
    """The curve in one part of the axis: its least and greatest value, and the mean of its `values` values.

    `mean.y` is None if they are too large for it.
    """

    number: int
    first_step: int
    last_step: int
    least: Point
    greatest: Point
    mean: Point
    values: int


Curve = Sequence[Part]
"""A curve: its parts, ascending."""


def group(rows: Sequence[Row], extras: Sequence[str], unit: float) -> dict[tuple[int, str], Curve]:
    """Return the curves by the number of the job, from 1, and the name of the metric.

    `rows` are ordered by part, and have the numbers of the metrics: those of DRAWN_COLUMNS, then `extras`. Positions
    are divided by `unit`.
    """
    names = [*DRAWN_COLUMNS, *extras]
    curves = defaultdict[tuple[int, str], list[Part]](list)
    for row in rows:
        least = Point(row["least_x"] / unit, row["least"])
        greatest, mean = Point(row["greatest_x"] / unit, row["greatest"]), Point(row["x"] / unit, row["mean"])
        part = Part(row["part"], row["first_step"], row["last_step"], least, greatest, mean, row["count"])
        curves[row["n"], names[row["metric"] - 1]].append(part)
    return dict(curves)


def line(curve: Curve) -> list[Point]:
    """Return a line through the extremes of each part, in the order in which they occur."""
    return [point for part in curve for point in sorted({part.least, part.greatest})]


def smooth(curve: Curve, share: float) -> list[Point]:
    """Return a moving average: at each part, the mean of the values at most `share` of the curve's length away.

    Near an end, values are averaged as far as the curve reaches in both directions: otherwise the ends were biased.
    """
    means = [(part.mean.x, part.mean.y, part.values) for part in curve if part.mean.y is not None]
    positions = [x for x, _, _ in means]
    smoothed = []
    for x in positions:
        reach = min((positions[-1] - positions[0]) * share, x - positions[0], positions[-1] - x)
        near = means[bisect_left(positions, x - reach) : bisect_right(positions, x + reach)]
        smoothed.append(Point(x, sum(y * count for _, y, count in near) / sum(count for _, _, count in near)))
    return smoothed
