"""The charts of curves: which lines they have, and the texts at each point. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from checkpointd import presentation
from checkpointd.presentation import Row
from checkpointd.web import chart
from checkpointd.web.curves import Curve, line, smooth
from checkpointd.web.view import SMOOTHING, View

MAX_DOTS: Final = 60
"""With more checkpoints, their dots would overlap, so only those of the best and the selected one are shown."""


class Line(NamedTuple):
    """One curve: its name in the legend, its CSS class, and its path. `exact` is its path without smoothing, or "".

    If the name is also shown at the end of the line, `end` is that position: x, and y from the top.
    """

    name: str
    style: str
    path: str
    exact: str
    end: tuple[float, float] | None


class Value(NamedTuple):
    """The value of a curve at a point. `height` is that of its dot, or None."""

    name: str
    style: str
    height: float | None
    text: str


class Point(NamedTuple):
    """A checkpoint, or a part of the curves: its position, its part of the width, and its texts.

    `title` is shown above the values while the point is selected; `label` is the whole text for screen readers.
    """

    x: float
    left: float
    width: float
    title: str
    values: list[Value]
    label: str
    is_checkpoint: bool
    is_best: bool
    is_missing: bool


class Figure(NamedTuple):
    """A chart with its texts. `missing` are the parts of the width whose checkpoints the provider no longer lists."""

    title: str
    axis: str
    lines: list[Line]
    x_ticks: list[chart.Tick]
    y_ticks: list[chart.Tick]
    points: list[Point]
    missing: list[chart.Span]
    is_dense: bool


class Named(NamedTuple):
    """A curve with its name in the legend and its CSS class. `is_tagged`: the name is also at the end of the line."""

    name: str
    style: str
    curve: Curve
    is_tagged: bool = False


class Mark(NamedTuple):
    """A checkpoint in a chart: its step, position and notes, and for each curve its value or None."""

    step: int
    x: float
    notes: list[str]
    values: Sequence[float | None]
    is_best: bool
    is_missing: bool


class Sparkline(NamedTuple):
    """Small curves of the training and the validation loss, without axes, and the last value of each as text."""

    train_path: str
    valid_path: str
    last_train: str
    last_valid: str


class _Text(NamedTuple):
    """What is shown at a point: its notes, and for each curve a text or "". `mark` is the checkpoint, or None."""

    x: float
    notes: list[str]
    texts: list[str]
    mark: Mark | None


def figure(title: str, axis: str, curves: Sequence[Named], marks: Sequence[Mark], view: View) -> Figure | None:
    """Draw those curves that have a value, or return None if none has one.

    The points are the marks, and the parts of the curves. A part of a single step that has a mark is not a point, but
    its values are shown at the mark if the mark lacks them.
    """
    chosen = [
        n
        for n, named in enumerate(curves)
        if named.curve or any(chart.finite(mark.values[n]) is not None for mark in marks)
    ]
    curves = [curves[n] for n in chosen]
    marks = [mark._replace(values=[mark.values[n] for n in chosen]) for mark in marks]
    shown = sorted([*_marks(curves, marks), *_parts(curves, marks, axis)], key=lambda text: text.x)
    if not shown:
        return None
    share = SMOOTHING[view.smoothing]
    exact = [line(named.curve) for named in curves]
    smoothed = [smooth(named.curve, share) for named in curves] if share else []
    nothing: list[float | None] = [None] * len(curves)
    targets = [chart.Target(text.x, nothing if text.mark is None else text.mark.values) for text in shown]
    drawn = chart.draw([*exact, *smoothed], targets, log=view.scale == "log", integers=view.axis == "step")
    lines = drawn.lines[len(exact) :] or drawn.lines
    return Figure(
        title,
        axis,
        [
            Line(
                named.name,
                named.style,
                path,
                drawn.lines[n].path if share else "",
                end if named.is_tagged else None,
            )
            for n, (named, (path, end)) in enumerate(zip(curves, lines, strict=False))
        ],
        drawn.x_ticks,
        drawn.y_ticks,
        [
            _point(text, target, curves, is_latest=text is shown[-1])
            for text, target in zip(shown, drawn.targets, strict=True)
        ],
        chart.spans(drawn.targets, [text.mark is not None and text.mark.is_missing for text in shown]),
        len(marks) > MAX_DOTS,
    )


def _marks(curves: Sequence[Named], marks: Sequence[Mark]) -> list[_Text]:
    """Return the texts of the marks that have a value."""
    events = [{part.first_step: part for part in named.curve if part.first_step == part.last_step} for named in curves]
    shown = []
    for mark in marks:
        texts = [
            presentation.number(value)
            if value is not None
            else f"{presentation.number(parts[mark.step].least.y)} (event)"
            if mark.step in parts
            else ""
            for value, parts in zip(mark.values, events, strict=True)
        ]
        if any(texts):
            shown.append(_Text(mark.x, mark.notes, texts, mark))
    return shown


def _parts(curves: Sequence[Named], marks: Sequence[Mark], axis: str) -> list[_Text]:
    """Return the texts of the parts of the curves, without those of a single step that has a mark."""
    marked = {mark.step for mark in marks}
    by_number = [{part.number: part for part in named.curve} for named in curves]
    shown = []
    for number in sorted(set().union(*by_number)):
        parts = [found.get(number) for found in by_number]
        here = [part for part in parts if part is not None]
        first, last = min(part.first_step for part in here), max(part.last_step for part in here)
        if first == last and first in marked:
            continue
        note = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        x = sum(part.mean.x / len(here) for part in here)
        place = {"step": [], "epoch": [f"epoch {x:.2f}"]}.get(axis, [f"{x:.2f} {axis}"])
        shown.append(
            _Text(x, [*place, note], [_range(part.least.y, part.greatest.y) if part else "" for part in parts], None)
        )
    return shown


def _range(least: float | None, greatest: float | None) -> str:
    texts = dict.fromkeys((presentation.number(least), presentation.number(greatest)))
    return " to ".join(texts)


def _point(text: _Text, target: chart.PlottedTarget, curves: Sequence[Named], *, is_latest: bool) -> Point:
    values = [
        Value(named.name, named.style, height, shown)
        for named, height, shown in zip(curves, target.heights, text.texts, strict=True)
        if shown
    ]
    notes = [*text.notes, *(["latest"] if is_latest else [])]
    return Point(
        target.x,
        target.left,
        target.width,
        " · ".join(notes),
        values,
        ", ".join(notes) + ": " + ", ".join(f"{value.name} {value.text}" for value in values),
        text.mark is not None,
        text.mark is not None and text.mark.is_best,
        text.mark is not None and text.mark.is_missing,
    )


def sparkline(row: Row) -> Sparkline | None:
    """Draw the losses of a job, or return None if it has none. `row` has the steps and the losses as arrays."""
    losses = [row["train_loss"], row["valid_loss"]]
    drawn = chart.draw([[chart.Point(*point) for point in zip(row["steps"], loss, strict=True)] for loss in losses], [])
    last_train, last_valid = _last(row["train_loss"]), _last(row["valid_loss"])
    if last_train is None and last_valid is None:
        return None
    train_path, valid_path = (line.path for line in drawn.lines)
    return Sparkline(train_path, valid_path, presentation.number(last_train), presentation.number(last_valid))


def _last(values: Sequence[float | None]) -> float | None:
    """Return the last value that can be drawn, or None."""
    return next((value for value in reversed(values) if chart.finite(value) is not None), None)
