"""Curves as geometry: metrics by step in, places on a drawing out. Pure; knows neither HTML nor SVG elements.

Places are percentages of the drawing's width and height, from its top left, so that the drawing may have any size
without its text being scaled. A path is for a view box of 1000 by 1000.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final, NamedTuple

LARGEST: Final = sys.float_info.max
STEPS_OF_TEN: Final = (1, 2, 2.5, 5, 10)
MARGIN: Final = 0.06
"""The part of the values' range that is left free above and below them."""


class Tick(NamedTuple):
    """A mark of an axis: its place in percent and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from `low` to `high` to 0 to 100. Both are finite, and `low` is smaller."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the place of a value; halves keep the largest numbers from overflowing."""
        place = 100 * ((value / 2 - self.low / 2) / (self.high / 2 - self.low / 2))
        return min(max(round(place, 2), 0.0), 100.0)


class Mark(NamedTuple):
    """One step: its place, the span of the drawing that belongs to it, and the height of each curve there, if known."""

    at: float
    left: float
    width: float
    heights: list[float | None]


class Span(NamedTuple):
    """A part of the drawing's width."""

    left: float
    width: float


class Chart(NamedTuple):
    """A drawing. `paths` has one for each curve, empty where it has no point."""

    across: list[Tick]
    down: list[Tick]
    marks: list[Mark]
    paths: list[str]


def known(value: float | None) -> float | None:
    """Return a value that can be drawn; NaN and infinities cannot."""
    return value if value is not None and math.isfinite(value) else None


def scale(values: Sequence[float], *, margin: float = MARGIN) -> Scale:
    """Return a scale that holds these finite values; of none, or of equal ones, one that has them in its middle."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = float(low), float(high)
    # Doubles have 52 bits, next to zero fewer: what lies closer together than this cannot be told apart in a drawing.
    least = max(max(abs(low), abs(high)) * 1e-9, 1e-300)
    free = (high / 2 - low / 2) * 2 * margin if high / 2 - low / 2 > least else max(abs(low) * 0.1, least, 1e-3)
    return Scale(max(low - free, -LARGEST), min(high + free, LARGEST))


def ticks(of: Scale, most: int, *, whole: bool = False) -> list[Tick]:
    """Return at most so many marks at round (and, if wanted, whole) values inside a scale."""
    step = _round_step((of.high / 2 - of.low / 2) / most * 2, (1, 2, 5, 10) if whole else STEPS_OF_TEN)
    step = max(step, 1.0) if whole else step
    first = math.ceil(of.low / step)
    values = [(first + n) * step for n in range(most + 1) if (first + n) * step <= of.high]
    largest = max(map(abs, values), default=0.0)
    return [Tick(of(value), label(value, step, largest)) for value in values]


def _round_step(least: float, factors: Sequence[float]) -> float:
    """Return the smallest of these factors times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * factor for factor in factors if power * factor >= least * (1 - 1e-9)), least)


def label(value: float, step: float, largest: float) -> str:
    """Write a mark with the digits that the distance of the marks needs, all of an axis alike by its largest.

    From 100,000 on they are in thousands, then in millions, then in powers of ten; those below a ten-thousandth, too.
    """
    if abs(value) < step / 2:
        return "0"
    if largest < 1e-4 or largest >= 1e9:
        digits = max(0, 1 + math.floor(math.log10(largest)) - math.floor(math.log10(step)))
        mantissa, power = f"{value:.{digits}e}".split("e")
        return f"{_strip(mantissa)}e{power}"
    unit, sign = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e5 else (1.0, "")
    return _strip(f"{value / unit:,.{max(0, 1 - math.floor(math.log10(step / unit)))}f}") + sign


def _strip(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def draw(steps: Sequence[float], curves: Sequence[Sequence[float | None]]) -> Chart:
    """Draw curves over ascending steps; each curve has a value, or None, for each step. A curve joins what it has."""
    curves = [[known(value) for value in curve] for curve in curves]
    across = scale(steps, margin=0.0)
    down = scale([value for curve in curves for value in curve if value is not None])
    places = [across(step) for step in steps]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(places)), 100.0]
    marks = [
        Mark(
            at, round(edges[n], 2), round(edges[n + 1] - edges[n], 2),
            [None if (value := curve[n]) is None else round(100 - down(value), 2) for curve in curves],
        )
        for n, at in enumerate(places)
    ]  # fmt: skip
    paths = [_path([(m.at, y) for m in marks if (y := m.heights[n]) is not None]) for n in range(len(curves))]
    heights = [Tick(round(100 - tick.at, 2), tick.label) for tick in ticks(down, 5)]
    return Chart(ticks(across, 5, whole=True), heights, marks, paths)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Join points by straight lines; a single one is a line to itself, which round ends make a dot."""
    first, *rest = [f"{10 * x:g} {10 * y:g}" for x, y in points] or [""]
    return f"M{first}L{'L'.join(rest or [first])}" if first else ""


def spans(marks: Sequence[Mark], chosen: Sequence[bool]) -> list[Span]:
    """Return the parts of the drawing that belong to the chosen marks, neighbours as one."""
    found = []
    for is_chosen, run in groupby(zip(marks, chosen, strict=True), key=lambda pair: pair[1]):
        if is_chosen:
            members = [mark for mark, _ in run]
            left = members[0].left
            found.append(Span(left, round(members[-1].left + members[-1].width - left, 2)))
    return found
