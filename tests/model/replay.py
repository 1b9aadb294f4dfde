"""Replays the feed, as one does who reads nothing but the view changes, and compares it with the other views."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
TEXTS = {"fine_tuned_model_checkpoint", "checkpoint_type", "deploy_as"}
AS_LAST_STATED = ("checkpoint_type", "deploy_as", "expires_at", "size_bytes")
"""Values that are null when the provider states them no more."""
Metrics = set[tuple[object, ...]]
"""Rows of metrics_as_of: id, step, name and value."""
NO_METRICS = {*TEXTS, *AS_LAST_STATED, "step_number", "created_at"}
AS_OF = """
    select times.at, metrics.checkpoint_id, metrics.step_number, metrics.metric, metrics.value
    from unnest($2::timestamptz[]) as times (at)
    cross join lateral fine_tuning.metrics_as_of($1, times.at) as metrics"""


@dataclass
class Replayed:
    """A checkpoint, with its values by field."""

    values: dict[str, str | float]
    missing: bool = False
    expired: bool = False


def replay(changes: Iterable[Mapping[str, Any]]) -> dict[str, Replayed]:
    """Apply the changes of one job, in their order, to nothing. Returns the checkpoints by id."""
    found: dict[str, Replayed] = {}
    for change in changes:
        checkpoint_id, field = change["checkpoint_id"], change["field"]
        match change["kind"]:
            case "new":
                initial = json.loads(change["initial_values"])
                found[checkpoint_id] = Replayed({name: _read(name, text) for name, text in initial.items()})
            case "changed":
                found[checkpoint_id].values[field] = _read(field, change["new_value"])
            case "regressed" if field in AS_LAST_STATED:
                del found[checkpoint_id].values[field]
            case "missing" | "expired" | "returned" as kind:
                found[checkpoint_id].missing = kind != "returned"
                found[checkpoint_id].expired = kind == "expired"
    return found


def _read(field: str, text: str) -> str | float:
    return text if field in TEXTS else float(text)


def _show(row: Mapping[str, Any]) -> Replayed:
    """Return a row of the view checkpoints in the same form."""
    values: dict[str, str | float] = {
        name: row[name] for name in ("step_number", "size_bytes", *TEXTS, *METRICS) if row[name] is not None
    }
    if values.get("deploy_as") == values.get("fine_tuned_model_checkpoint"):
        values.pop("deploy_as", None)  # derived
    for name in ("created_at", "expires_at"):
        if row[name] is not None:
            values[name] = row[name].timestamp()
    extra = json.loads(row["extra_metrics"] or "{}")
    return Replayed(
        values | {f"extra_metrics.{name}": value for name, value in extra.items()},
        row["missing_since"] is not None,
        row["is_expired"],
    )


class Feed:
    """The feed of one job, and what the view checkpoints showed at earlier times."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._seen: dict[datetime, Metrics] = {}
        """What was shown when the last change was of this time."""

    async def differences(
        self, sql: asyncpg.Connection, changes: Sequence[asyncpg.Record], checkpoints: Iterable[asyncpg.Record]
    ) -> dict[str, tuple[object, object]]:
        """Replay the feed. Returns what differs from the views, each with the expected and the found value.

        Earlier times are up to four of those at which this method was called.
        """
        shown = {row["id"]: _show(row) for row in checkpoints}
        pairs: dict[str, tuple[object, object]] = {"replayed": (shown, replay(changes))}
        if changes:
            self._seen[changes[-1]["at"]] = _metrics(shown)
        times = sorted(self._seen)
        times = sorted({times[len(times) * n // 4] for n in range(4)}) if times else []
        as_of: dict[datetime, Metrics] = {at: set() for at in times}
        for at, *metric in await sql.fetch(AS_OF, self._job, times):
            as_of[at].add(tuple(metric))
        for at in times:
            then = _metrics(replay(change for change in changes if change["at"] <= at))
            pairs[f"replayed until {at}"] = (self._seen[at], then)
            pairs[f"metrics as of {at}"] = (self._seen[at], as_of[at])
        return {aspect: pair for aspect, pair in pairs.items() if pair[0] != pair[1]}


def _metrics(replayed: Mapping[str, Replayed]) -> Metrics:
    """Return the metrics as rows of metrics_as_of: id, step, name and value."""
    return {
        (checkpoint_id, checkpoint.values["step_number"], field.removeprefix("extra_metrics."), value)
        for checkpoint_id, checkpoint in replayed.items()
        for field, value in checkpoint.values.items()
        if field not in NO_METRICS
    }
