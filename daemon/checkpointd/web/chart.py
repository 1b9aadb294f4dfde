"""The geometry of charts: from values to positions in a drawing. Pure, and independent of HTML and SVG.

Positions are percentages of the drawing's width or height, from its top left, so that a drawing can have any size
without its text being scaled. A path is for a view box of 1000 by 1000.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import Final, NamedTuple

MAX_FLOAT: Final = sys.float_info.max

DECIMAL_FACTORS: Final = (1, 2, 2.5, 5, 10)
INTEGER_FACTORS: Final = (1, 2, 5, 10)
"""A distance between ticks is round if it is one of these factors times a power of ten."""

MAX_TICKS: Final = 5
"""The most distances between ticks on an axis."""

SHORT_LABEL: Final = 6
"""The most characters of a label of the x axis. If one is longer, every second tick is left out, or they overlap."""

LEAST_LOGARITHM: Final = -300
"""Values below the power of ten with this exponent, and above its inverse, are not drawn on a logarithmic axis."""

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


class Point(NamedTuple):
    """A point of a line. `y` is None if there is no value."""

    x: float
    y: float | None


class Target(NamedTuple):
    """A part of the drawing that can be selected: its x and its values. A missing value is None."""

    x: float
    values: Sequence[float | None]


class PlottedTarget(NamedTuple):
    """A target: its x position, the part of the width nearest to it, and the y position of each value or None."""

    x: float
    left: float
    width: float
    heights: list[float | None]


class PlottedLine(NamedTuple):
    """A line: its path, empty if it has no point, and the position of its last point or None."""

    path: str
    end: tuple[float, float] | None


class Span(NamedTuple):
    """A part of the drawing's width."""

    left: float
    width: float


class Chart(NamedTuple):
    """The geometry of one chart."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    targets: list[PlottedTarget]
    lines: list[PlottedLine]


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


def log_ticks(scale: Scale) -> list[Tick]:
    """Return ticks of a scale of logarithms to the base 10: at 1, 2 and 5 times powers of ten, or at some powers.

    If the scale is shorter than that, they are at evenly spaced values.
    """
    powers = range(max(math.floor(scale.low), -307), min(math.ceil(scale.high), 308) + 1)
    for factors in ((1, 2, 5), (1,)):
        exact = [(factor, power) for power in powers for factor in factors]
        values = [f * 10.0**power for f, power in exact if scale.low <= power + math.log10(f) <= scale.high]
        if len(values) <= MAX_TICKS + 1:
            break
    values = values[:: -(-len(values) // (MAX_TICKS + 1)) or 1]
    if len(values) > 1:
        return [Tick(scale(math.log10(value)), _label(value, value, value)) for value in values]
    low, high = 10.0**scale.low, 10.0**scale.high
    evenly = [(low + tick.position / 100 * (high - low), tick.label) for tick in ticks(Scale(low, high))]
    return [Tick(scale(math.log10(value)), label) for value, label in evenly]


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


def draw(
    lines: Sequence[Sequence[Point]], targets: Sequence[Target], *, log: bool = False, integers: bool = True
) -> Chart:
    """Draw lines, and targets by ascending x. `log` makes the y axis logarithmic: it leaves out values up to 0.

    With `integers`, the ticks of the x axis are at integers only.
    """
    height = _logarithm if log else finite
    drawn = [[(x, y) for x, value in line if (y := height(value)) is not None] for line in lines]
    values = [[height(value) for value in target.values] for target in targets]
    x_scale = fit_scale([*(x for line in drawn for x, _ in line), *(target.x for target in targets)], margin=0.0)
    y_scale = fit_scale(
        [*(y for line in drawn for _, y in line), *(y for y in chain.from_iterable(values) if y is not None)]
    )

    def from_top(y: float) -> float:
        return round(100 - y_scale(y), 2)

    positions = [x_scale(target.x) for target in targets]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(positions)), 100.0]
    plotted = [
        PlottedTarget(x, round(left, 2), round(right - left, 2), [None if y is None else from_top(y) for y in heights])
        for x, (left, right), heights in zip(positions, pairwise(borders), values, strict=False)
    ]
    x_ticks = ticks(x_scale, integers=integers)
    has_long_labels = any(len(tick.label) > SHORT_LABEL for tick in x_ticks)
    y_ticks = log_ticks(y_scale) if log else ticks(y_scale)
    return Chart(
        x_ticks[:: 2 if has_long_labels else 1],
        [Tick(round(100 - tick.position, 2), tick.label) for tick in y_ticks],
        plotted,
        [_plot([(x_scale(x), from_top(y)) for x, y in line]) for line in drawn],
    )


def _logarithm(value: float | None) -> float | None:
    """Return the logarithm of a value, or None if it cannot be drawn on a logarithmic axis."""
    return math.log10(value) if value is not None and 10.0**LEAST_LOGARITHM <= value <= 10.0**-LEAST_LOGARITHM else None


def _plot(points: Sequence[tuple[float, float]]) -> PlottedLine:
    """Return a path of straight lines. A single point becomes a line of length 0, which round ends make a dot."""
    if not points:
        return PlottedLine("", None)
    first, *rest = [f"{10 * x:g} {10 * y:g}" for x, y in points]
    return PlottedLine(f"M{first}L{'L'.join(rest or [first])}", points[-1])


def spans(targets: Sequence[PlottedTarget], chosen: Sequence[bool]) -> list[Span]:
    """Return the parts of the width that belong to the chosen targets. Adjacent parts are merged."""
    found = []
    for is_chosen, run in groupby(zip(targets, chosen, strict=True), key=lambda pair: pair[1]):
        if is_chosen:
            members = [target for target, _ in run]
            left = members[0].left
            found.append(Span(left, round(members[-1].left + members[-1].width - left, 2)))
    return found
