"""The charts of the pages: one for each group of metrics of a job, or one for each metric of several jobs. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from checkpointd import presentation
from checkpointd.presentation import Row
from checkpointd.web import curves
from checkpointd.web.curves import Curve
from checkpointd.web.figures import Figure, Mark, Named, figure
from checkpointd.web.view import View

TITLE_CHARACTERS: Final = 64
"""The most characters of a metric's name in a title."""

_LOSSES: Final = {"train_loss": "train", "valid_loss": "valid", "full_valid_loss": "full valid"}
_ACCURACIES: Final = {
    "train_mean_token_accuracy": "train",
    "valid_mean_token_accuracy": "valid",
    "full_valid_mean_token_accuracy": "full valid",
}
_TITLES: Final = {
    "train_loss": "Train loss",
    "valid_loss": "Valid loss",
    "full_valid_loss": "Full valid loss",
    "train_mean_token_accuracy": "Train token accuracy",
    "valid_mean_token_accuracy": "Valid token accuracy",
    "full_valid_mean_token_accuracy": "Full valid token accuracy",
}
LETTERS: Final = "ABCDEFGH"
"""The names of the jobs in the charts of several jobs."""

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "min": 60.0}


class _Axis(NamedTuple):
    """The x axis: the name of its unit, and the positions of the curves' rows in one such unit."""

    name: str
    unit: float


def _axis(view: View, rows: Sequence[Row]) -> _Axis:
    """Return the axis. That of time has the largest unit of which the curves have at least two."""
    if view.axis != "time":
        return _Axis(view.axis, 1.0)
    longest = max((abs(row[x]) for row in rows for x in ("least_x", "greatest_x")), default=0.0)
    return next((_Axis(name, unit) for name, unit in _UNITS.items() if longest >= 2 * unit), _Axis("s", 1.0))


def of_job(training: Row, rows: Sequence[Row], checkpoints: Sequence[Row], view: View) -> list[Figure]:
    """Draw the curves of a job with its checkpoints on them: the metric of its objective first, if it is no loss.

    `rows` are its curves, and `checkpoints` its checkpoints by ascending step. `training` has the names of the metrics
    without a column.
    """
    axis = _axis(view, rows)
    by_name = {name: curve for (_, name), curve in curves.group(rows, training["names"], axis.unit).items()}
    marks = list(_marks(training, checkpoints, view, axis))
    extras = [(_title(name), {name: _extra_name(name, training)}) for name in training["names"]]
    first = 1 if training["names"][:1] == [training["objective"]] else 0
    groups = [*extras[:first], ("Loss", _LOSSES), ("Token accuracy", _ACCURACIES), *extras[first:]]
    return [
        drawn for title, names in groups if (drawn := _draw(title, axis.name, names, by_name, marks, view)) is not None
    ]


def of_jobs(trainings: Sequence[Row], extras: Sequence[str], rows: Sequence[Row], view: View) -> list[Figure]:
    """Draw one chart for each metric, with the curves of all jobs that have it, named by letters.

    `rows` are the curves. `extras` are the metrics without a column: those of the objectives are drawn first.
    """
    axis = _axis(view, rows)
    by_job = curves.group(rows, extras, axis.unit)
    objectives = [name for name in extras if any(name == training["objective"] for training in trainings)]
    titles = {name: _title(name) for name in objectives} | _TITLES | {name: _title(name) for name in extras}
    drawn = []
    for metric, title in titles.items():
        found = [(n, by_job[n, metric]) for n in range(1, len(trainings) + 1) if (n, metric) in by_job]
        named = [Named(LETTERS[n - 1], f"job-{n}", curve, is_tagged=True) for n, curve in found]
        if (chart := figure(title, axis.name, named, [], view)) is not None:
            drawn.append(chart)
    return drawn


def _title(metric: str) -> str:
    return presentation.cut(metric, TITLE_CHARACTERS)


def _extra_name(metric: str, training: Row) -> str:
    return "objective" if metric == training["objective"] else "value"


def _draw(
    title: str,
    axis: str,
    names: Mapping[str, str],
    by_name: Mapping[str, Curve],
    marks: Sequence[tuple[Mark, Mapping[str, Any]]],
    view: View,
) -> Figure | None:
    named = [Named(name, name.replace(" ", "-"), by_name.get(metric, ())) for metric, name in names.items()]
    return figure(title, axis, named, [m._replace(values=[found[name] for name in names]) for m, found in marks], view)


def _marks(
    training: Row, checkpoints: Sequence[Row], view: View, axis: _Axis
) -> Iterator[tuple[Mark, Mapping[str, Any]]]:
    """Yield the checkpoints that have a position on the axis, each with all its metrics by name."""
    for row in checkpoints:
        step, time = row["step_number"], row["created_at"]
        x = {
            "step": float(step),
            "epoch": training["epochs_per_step"] and step * training["epochs_per_step"],
            "time": (time - training["started_at"]).total_seconds() / axis.unit
            if time is not None and training["started_at"] is not None
            else None,
        }[view.axis]
        if x is None:
            continue
        notes = [
            f"step {step:,}",
            *([f"epoch {row['epoch']}"] if row["epoch"] is not None else []),
            *(["checkpoint"] if training["step_count"] else []),
            *(["best"] if row["is_best"] else []),
            *(["missing"] if row["is_missing"] else []),
        ]
        values = {name: row[name] for name in curves.DRAWN_COLUMNS}
        values |= dict(zip(training["names"], row["extras"], strict=True))
        yield Mark(step, x, notes, (), row["is_best"], row["is_missing"]), values
