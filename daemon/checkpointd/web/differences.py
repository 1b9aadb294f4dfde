"""The table of several jobs side by side: what differs between them first. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from checkpointd import presentation
from checkpointd.presentation import Row

MAX_HYPERPARAMETERS: Final = 30
"""The most hyperparameters that are compared, the first ones of each job."""

_GIVEN: Final = {
    "model": "base model",
    "method": "method",
    "training_file": "training file",
    "validation_file": "validation file",
    "seed": "seed",
}
_RESULTS: Final = {
    "status": "status",
    "created_at": "created",
    "finished_at": "finished",
    "trained_tokens": "trained tokens",
    "best_value": "best value",
    "best_step": "best step",
    "best_candidates": "checkpoints",
    "last_step": "last checkpoint's step",
    "last_train_loss": "last train loss",
    "last_valid_loss": "last valid loss",
    "last_full_valid_loss": "last full valid loss",
    "valid_gap": "last valid loss minus train loss",
    "full_valid_gap": "last full valid loss minus train loss",
    "fine_tuned_model": "fine-tuned model",
}


class Property(NamedTuple):
    """A row of the table: a property of the jobs, and its value for each job or ""."""

    name: str
    values: list[str]

    @property
    def differs(self) -> bool:
        """Whether two jobs have different values."""
        return len(set(self.values)) > 1


def properties(jobs: Sequence[Row], best_steps: Sequence[Row | None]) -> list[Property]:
    """Return the properties that a job has: first those that differ, then those that are the same for all jobs.

    `best_steps` has the best step of each job, or None.
    """
    known = [found for found in _properties(jobs, best_steps) if any(found.values)]
    return sorted(known, key=lambda found: not found.differs)


def _properties(jobs: Sequence[Row], best_steps: Sequence[Row | None]) -> Iterator[Property]:
    yield from _columns(jobs, _GIVEN)
    given = [presentation.hyperparameters(job["hyperparameters"]) for job in jobs]
    names = dict.fromkeys(name for one in given for name in list(one)[:MAX_HYPERPARAMETERS])
    for name in list(names)[:MAX_HYPERPARAMETERS]:
        yield Property(name.replace("_", " "), [one.get(name, "") for one in given])
    yield Property("objective", [presentation.objective(job) for job in jobs])
    yield Property("checkpoints with its metric", [presentation.coverage(job) for job in jobs])
    yield Property("best step of the curve", ["" if best is None else _best_step(best) for best in best_steps])
    lasted = [job["duration_seconds"] for job in jobs]
    yield Property("duration", ["" if seconds is None else presentation.duration(seconds) for seconds in lasted])
    yield from _columns(jobs, _RESULTS)


def _best_step(best: Row) -> str:
    """Return the best step, by what it was chosen, and its value, such as `50: smallest valid_loss, 0.2500`."""
    chosen = presentation.objective({"best_rule": best["metric"], "best_direction": best["direction"]})
    return f"{best['step_number']:,}: {chosen}, {presentation.number(best['value'])}"


def _columns(jobs: Sequence[Row], columns: dict[str, str]) -> Iterator[Property]:
    for column, name in columns.items():
        yield Property(name, [_text(job[column]) for job in jobs])


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return presentation.number(value)
        case int():
            return f"{value:,}"
        case datetime():
            return presentation.timestamp(value)
        case _:
            return str(value)
