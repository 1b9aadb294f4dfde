"""The charts of a job: which curves they have, and the texts at each point. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from checkpointd import presentation
from checkpointd.presentation import Row
from checkpointd.web import chart

MAX_DOTS: Final = 60
"""With more steps, the dots of a curve would overlap, so only those of the best and the selected step are shown."""

TITLE_CHARACTERS: Final = 64
"""The most characters of a metric's name in a title."""

_LOSSES: Final = {"train_loss": "train", "valid_loss": "valid", "full_valid_loss": "full valid"}
_ACCURACIES: Final = {
    "train_mean_token_accuracy": "train",
    "valid_mean_token_accuracy": "valid",
    "full_valid_mean_token_accuracy": "full valid",
}


class Curve(NamedTuple):
    """One metric: its name in the legend, its CSS class, and its path."""

    name: str
    style: str
    path: str


class Value(NamedTuple):
    """The value of a metric at a step. `height` is None if it cannot be drawn."""

    name: str
    style: str
    height: float | None
    text: str


class Point(NamedTuple):
    """A step: its position, its part of the width, and its texts.

    `title` is shown above the values while the point is selected; `label` is the whole text for screen readers.
    """

    x: float
    left: float
    width: float
    title: str
    values: list[Value]
    label: str
    is_best: bool
    is_missing: bool


class Figure(NamedTuple):
    """A chart with its texts. `missing` are the parts of the width whose checkpoints the provider no longer lists."""

    title: str
    curves: list[Curve]
    x_ticks: list[chart.Tick]
    y_ticks: list[chart.Tick]
    points: list[Point]
    missing: list[chart.Span]
    is_dense: bool


class Sparkline(NamedTuple):
    """Small curves of the training and the validation loss, without axes, and the last value of each as text."""

    train_path: str
    valid_path: str
    last_train: str
    last_valid: str


def losses(rows: Sequence[Row]) -> Figure:
    """Draw the losses of a job. `rows` are its metrics by ascending step."""
    return _figure("Loss", _LOSSES, rows)


def accuracies(rows: Sequence[Row]) -> Figure:
    """Draw the accuracies of a job. `rows` are its metrics by ascending step."""
    return _figure("Token accuracy", _ACCURACIES, rows)


def objective(rows: Sequence[Row], metric: str) -> Figure:
    """Draw the metric of the objective, if it has no column of its own. `rows` are the metrics by ascending step."""
    return _figure(presentation.cut(metric, TITLE_CHARACTERS), {"objective": "objective"}, rows)


def _figure(title: str, metrics: dict[str, str], rows: Sequence[Row]) -> Figure:
    """Draw the metrics that have a value, over the steps at which one of them has a value."""
    shown = {
        metric: name for metric, name in metrics.items() if any(chart.finite(row[metric]) is not None for row in rows)
    }
    rows = [row for row in rows if any(row[metric] is not None for metric in shown)]
    drawn = chart.draw([row["step_number"] for row in rows], [[row[metric] for row in rows] for metric in shown])
    points = [
        _point(row, step, list(shown.items()), is_latest=row is rows[-1])
        for row, step in zip(rows, drawn.steps, strict=True)
    ]
    curves = [Curve(name, _style(name), path) for name, path in zip(shown.values(), drawn.paths, strict=True)]
    missing = chart.spans(drawn.steps, [row["is_missing"] for row in rows])
    return Figure(title, curves, drawn.x_ticks, drawn.y_ticks, points, missing, len(rows) > MAX_DOTS)


def _style(name: str) -> str:
    return name.replace(" ", "-")


def _point(row: Row, step: chart.PlottedStep, shown: Sequence[tuple[str, str]], *, is_latest: bool) -> Point:
    values = [
        Value(name, _style(name), height, presentation.number(row[metric]))
        for (metric, name), height in zip(shown, step.heights, strict=True)
        if row[metric] is not None
    ]
    notes = [
        f"step {row['step_number']:,}",
        *([f"epoch {row['epoch']}"] if row["epoch"] is not None else []),
        *(["best"] if row["is_best"] else []),
        *(["missing"] if row["is_missing"] else []),
        *(["latest"] if is_latest else []),
    ]
    label = ", ".join(notes) + ": " + ", ".join(f"{value.name} {value.text}" for value in values)
    return Point(step.x, step.left, step.width, " · ".join(notes), values, label, row["is_best"], row["is_missing"])


def sparkline(row: Row) -> Sparkline | None:
    """Draw the losses of a job, or return None if it has none. `row` has the steps and the losses as arrays."""
    drawn = chart.draw(row["steps"], [row["train_loss"], row["valid_loss"]])
    last_train, last_valid = _last(row["train_loss"]), _last(row["valid_loss"])
    if last_train is None and last_valid is None:
        return None
    train_path, valid_path = drawn.paths
    return Sparkline(train_path, valid_path, presentation.number(last_train), presentation.number(last_valid))


def _last(values: Sequence[float | None]) -> float | None:
    """Return the last value that can be drawn, or None."""
    return next((value for value in reversed(values) if chart.finite(value) is not None), None)
