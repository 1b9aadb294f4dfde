"""A job's metrics as drawings: which curves there are, what each point says. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from checkpointd import presentation
from checkpointd.presentation import Row
from checkpointd.web import chart

DOTS: Final = 60
"""With more steps than this the points of a curve run into each other: only the special ones are marked."""

_LOSSES: Final = {"train_loss": "train", "valid_loss": "valid", "full_valid_loss": "full valid"}
_ACCURACIES: Final = {
    "train_mean_token_accuracy": "train",
    "valid_mean_token_accuracy": "valid",
    "full_valid_mean_token_accuracy": "full valid",
}


class Curve(NamedTuple):
    """One metric: its name in the legend, the word for its style, and its line."""

    name: str
    style: str
    path: str


class Value(NamedTuple):
    """A metric at a step: where it is drawn, if it can be, and what it says."""

    name: str
    style: str
    height: float | None
    text: str


class Point(NamedTuple):
    """A step: its place and span, what stands above it while it is pointed at, and the same for reading out."""

    at: float
    left: float
    width: float
    title: str
    values: list[Value]
    said: str
    is_best: bool
    is_missing: bool


class Figure(NamedTuple):
    """A drawing of curves over steps."""

    title: str
    curves: list[Curve]
    across: list[chart.Tick]
    down: list[chart.Tick]
    points: list[Point]
    withdrawn: list[chart.Span]
    is_dense: bool


class Sparkline(NamedTuple):
    """Small curves without axes: train and validation loss, and their last values in words."""

    train: str
    valid: str
    last_train: str
    last_valid: str


def losses(rows: Sequence[Row]) -> Figure:
    """Draw the losses of a job, given by ascending step."""
    return _figure("Loss", _LOSSES, rows)


def accuracies(rows: Sequence[Row]) -> Figure:
    """Draw the accuracies of a job, given by ascending step."""
    return _figure("Token accuracy", _ACCURACIES, rows)


def _figure(title: str, metrics: dict[str, str], rows: Sequence[Row]) -> Figure:
    shown = {
        metric: name for metric, name in metrics.items() if any(chart.known(row[metric]) is not None for row in rows)
    }
    rows = [row for row in rows if any(row[metric] is not None for metric in shown)]
    drawn = chart.draw([row["step_number"] for row in rows], [[row[metric] for row in rows] for metric in shown])
    points = [
        _point(row, mark, list(shown.items()), is_last=row is rows[-1])
        for row, mark in zip(rows, drawn.marks, strict=True)
    ]
    curves = [Curve(name, _style(name), path) for name, path in zip(shown.values(), drawn.paths, strict=True)]
    withdrawn = chart.spans(drawn.marks, [row["is_missing"] for row in rows])
    return Figure(title, curves, drawn.across, drawn.down, points, withdrawn, len(rows) > DOTS)


def _style(name: str) -> str:
    return name.replace(" ", "-")


def _point(row: Row, mark: chart.Mark, shown: Sequence[tuple[str, str]], *, is_last: bool) -> Point:
    values = [
        Value(name, _style(name), height, presentation.number(row[metric]))
        for (metric, name), height in zip(shown, mark.heights, strict=True)
        if row[metric] is not None
    ]
    notes = [
        f"step {row['step_number']:,}",
        *([f"epoch {row['epoch']}"] if row["epoch"] is not None else []),
        *(["best"] if row["is_best"] else []),
        *(["withdrawn"] if row["is_missing"] else []),
        *(["latest"] if is_last else []),
    ]
    said = ", ".join(notes) + ": " + ", ".join(f"{value.name} {value.text}" for value in values)
    return Point(mark.at, mark.left, mark.width, " · ".join(notes), values, said, row["is_best"], row["is_missing"])


def sparkline(row: Row) -> Sparkline | None:
    """Draw a job's losses small; None: it has none."""
    drawn = chart.draw(row["steps"], [row["train_loss"], row["valid_loss"]])
    train, valid = (
        [v for value in row[name] if (v := chart.known(value)) is not None] for name in ("train_loss", "valid_loss")
    )
    if not train and not valid:
        return None
    return Sparkline(
        drawn.paths[0], drawn.paths[1],
        presentation.number(train[-1] if train else None), presentation.number(valid[-1] if valid else None),
    )  # fmt: skip
