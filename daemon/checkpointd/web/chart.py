"""The geometry of charts: from metrics by step to positions in a drawing. Pure, and independent of HTML and SVG.

Positions are percentages of the drawing's width or height, from its top left, so that a drawing can have any size
without its text being scaled. A path is for a view box of 1000 by 1000.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final, NamedTuple

MAX_FLOAT: Final = sys.float_info.max

DECIMAL_FACTORS: Final = (1, 2, 2.5, 5, 10)
INTEGER_FACTORS: Final = (1, 2, 5, 10)
"""A distance between ticks is round if it is one of these factors times a power of ten."""

MAX_TICKS: Final = 5
"""The most distances between ticks on an axis."""

MARGIN: Final = 0.06
"""The share of the values' range that is left free above and below them."""


class Tick(NamedTuple):
    """A tick of an axis."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the values from `low` to `high` to the positions from 0 to 100. Both are finite, and `low` is smaller."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the position of a value, computed with halves, because a difference of large values may overflow."""
        position = 100 * ((value / 2 - self.low / 2) / (self.high / 2 - self.low / 2))
        return min(max(round(position, 2), 0.0), 100.0)


class PlottedStep(NamedTuple):
    """One step: its x position, the part of the width nearest to it, and the y position of each curve or None."""

    x: float
    left: float
    width: float
    heights: list[float | None]


class Span(NamedTuple):
    """A part of the drawing's width."""

    left: float
    width: float


class Chart(NamedTuple):
    """The geometry of one chart. `paths` has one path for each curve, empty if the curve has no point."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    steps: list[PlottedStep]
    paths: list[str]


def finite(value: float | None) -> float | None:
    """Return a value that can be drawn, or None for None, NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None


def fit_scale(values: Sequence[float], *, margin: float = MARGIN) -> Scale:
    """Return a scale that contains these finite values. If all are equal, they are in its middle."""
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 1.0)
    half_range = high / 2 - low / 2
    # Doubles have a precision of 52 bits, and less near zero. Values that are closer than this are drawn as equal.
    resolution = max(max(abs(low), abs(high)) * 1e-9, 1e-300)
    padding = half_range * 2 * margin if half_range > resolution else max(abs(low) * 0.1, resolution, 1e-3)
    return Scale(max(low - padding, -MAX_FLOAT), min(high + padding, MAX_FLOAT))


def ticks(scale: Scale, *, integers: bool = False) -> list[Tick]:
    """Return ticks at round values of a scale. With `integers`, they are at integers only."""
    least = (scale.high / 2 - scale.low / 2) / MAX_TICKS * 2
    distance = max(_round_up(least, INTEGER_FACTORS), 1.0) if integers else _round_up(least, DECIMAL_FACTORS)
    first = math.ceil(scale.low / distance)
    multiples = [(first + n) * distance for n in range(MAX_TICKS + 1)]
    values = [value for value in multiples if value <= scale.high]
    largest = max(map(abs, values), default=0.0)
    return [Tick(scale(value), _label(value, distance, largest)) for value in values]


def _round_up(least: float, factors: Sequence[float]) -> float:
    """Return the smallest round distance that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * factor for factor in factors if power * factor >= least * (1 - 1e-9)), least)


def _label(value: float, distance: float, largest: float) -> str:
    """Return the label of a tick, with as many digits as the distance of the ticks needs.

    `largest` is the largest absolute value of the axis. It determines the unit, which is the same for all its labels:
    thousands (k) from 100,000, millions (M) from 1,000,000, and powers of ten from 1e9 and below 0.0001.
    """
    if abs(value) < distance / 2:
        return "0"
    if largest < 1e-4 or largest >= 1e9:
        digits = max(0, 1 + math.floor(math.log10(largest)) - math.floor(math.log10(distance)))
        mantissa, power = f"{value:.{digits}e}".split("e")
        return f"{_without_trailing_zeros(mantissa)}e{power}"
    unit, sign = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e5 else (1.0, "")
    decimals = max(0, 1 - math.floor(math.log10(distance / unit)))
    return _without_trailing_zeros(f"{value / unit:,.{decimals}f}") + sign


def _without_trailing_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def draw(steps: Sequence[float], curves: Sequence[Sequence[float | None]]) -> Chart:
    """Draw curves over ascending steps. Each curve has a value or None for each step."""
    curves = [[finite(value) for value in curve] for curve in curves]
    x_scale = fit_scale(steps, margin=0.0)
    y_scale = fit_scale([value for curve in curves for value in curve if value is not None])
    positions = [x_scale(step) for step in steps]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(positions)), 100.0]
    plotted = [
        PlottedStep(
            x,
            round(left, 2),
            round(right - left, 2),
            [None if (value := curve[n]) is None else round(100 - y_scale(value), 2) for curve in curves],
        )
        for n, (x, (left, right)) in enumerate(zip(positions, pairwise(borders), strict=False))
    ]
    paths = [_path([(step.x, y) for step in plotted if (y := step.heights[n]) is not None]) for n in range(len(curves))]
    y_ticks = [Tick(round(100 - tick.position, 2), tick.label) for tick in ticks(y_scale)]
    return Chart(ticks(x_scale, integers=True), y_ticks, plotted, paths)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path of straight lines. A single point becomes a line of length 0, which round ends make a dot."""
    first, *rest = [f"{10 * x:g} {10 * y:g}" for x, y in points] or [""]
    return f"M{first}L{'L'.join(rest or [first])}" if first else ""


def spans(steps: Sequence[PlottedStep], chosen: Sequence[bool]) -> list[Span]:
    """Return the parts of the width that belong to the chosen steps. Adjacent parts are merged."""
    found = []
    for is_chosen, run in groupby(zip(steps, chosen, strict=True), key=lambda pair: pair[1]):
        if is_chosen:
            members = [step for step, _ in run]
            left = members[0].left
            found.append(Span(left, round(members[-1].left + members[-1].width - left, 2)))
    return found
