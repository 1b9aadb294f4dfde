"""What the views show of a job, and how that differs from the reference model."""

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from model.reference import Change, Effect, Model, Value

_ROW_VERSIONS = """
    with job as (select j.key from checkpointd.jobs j join checkpointd.sources s on s.key = j.source where s.name = $1)
    select 'checkpoints', id, t.xmin::text, t.ctid::text from checkpointd.checkpoints t join job on t.job = job.key
    union all
    select 'changes', seq::text, t.xmin::text, t.ctid::text from checkpointd.changes t join job on t.job = job.key
    union all
    select 'polls', id::text, t.xmin::text, t.ctid::text from checkpointd.polls t join job on t.job = job.key
    union all
    select 'rejects', convert_from(raw, 'UTF8'), t.xmin::text, t.ctid::text
    from checkpointd.rejects t join job on t.job = job.key
"""

Row = tuple[str, str]
"""A table, and the key of one of its rows."""


@dataclass
class Views:
    """What the views show of the job of a source, and the version of each row that a quiet poll must not write."""

    checkpoints: dict[str, asyncpg.Record]
    changes: list[asyncpg.Record]
    polls: list[asyncpg.Record]
    rejects: list[asyncpg.Record]
    freshness: asyncpg.Record
    job: asyncpg.Record
    row_versions: dict[Row, tuple[str, str]]


async def read_views(sql: asyncpg.Connection, source: str) -> Views:
    """Read the views. The source has one job."""
    freshness = await sql.fetchrow("select * from fine_tuning.freshness where source = $1", source)
    job = await sql.fetchrow("select status, phase, checkpoint_count from fine_tuning.jobs where source = $1", source)
    assert freshness is not None
    assert job is not None
    row_versions = await sql.fetch(_ROW_VERSIONS, source)
    checkpoints = await sql.fetch("select * from fine_tuning.checkpoints where source = $1", source)
    return Views(
        checkpoints={row["id"]: row for row in checkpoints},
        changes=await sql.fetch("select * from fine_tuning.changes where source = $1 order by seq", source),
        polls=await sql.fetch("select * from fine_tuning.polls where source = $1 order by id", source),
        rejects=await sql.fetch("select * from fine_tuning.rejects where source = $1", source),
        freshness=freshness,
        job=job,
        row_versions={(table, key): (xmin, ctid) for table, key, xmin, ctid in row_versions},
    )


def differences(model: Model, effect: Effect, before: Views, after: Views) -> dict[str, tuple[Any, Any]]:
    """Compare the views after a step with the model after it. `effect` is what the step must have changed.

    Returns the aspects that differ, each with the expected value and the one that is shown.
    """
    old_changes, new_changes = after.changes[: len(before.changes)], after.changes[len(before.changes) :]
    freshness = after.freshness

    def has_moved(column: str) -> bool:
        return bool(before.freshness[column] != freshness[column])

    def moved_in(column: str) -> set[str]:
        """Return the checkpoints in which this column has changed."""
        both = before.checkpoints.keys() & after.checkpoints.keys()
        return {name for name in both if before.checkpoints[name][column] != after.checkpoints[name][column]}

    def ids_of(*kinds: str) -> set[str | None]:
        return {change.checkpoint_id for change in effect.changes if change.kind in kinds}

    expected_and_shown = {
        "checkpoints": (
            {name: (known.values, known.missing) for name, known in model.checkpoints.items()},
            {name: _values_and_missing(row) for name, row in after.checkpoints.items()},
        ),
        "changes before": (before.changes, old_changes),
        "new changes": (sorted(effect.changes, key=_sort_key), sorted(map(_change, new_changes), key=_sort_key)),
        "polls": (
            [(row.outcome, row.error_class, row.new, row.changed, row.count) for row in model.poll_rows],
            [(row["outcome"], row["error_class"], row["new"], row["changed"], row["count"]) for row in after.polls],
        ),
        "rejects": (set(model.rejects.values()), {model.rejects.get(row["raw"].decode()) for row in after.rejects}),
        "job": ((model.status, model.phase, len(model.checkpoints)), tuple(after.job)),
        "failures": (
            (model.failures, model.error_class),
            (freshness["consecutive_failures"], freshness["error_class"]),
        ),
        "last_error": (model.error_class is None, freshness["last_error"] is None),
        "last_complete_at moved": (effect.complete, has_moved("last_complete_at")),
        "last_success_at moved": (effect.success, has_moved("last_success_at")),
        "last_change_at moved": (
            any(change.kind != "status" for change in effect.changes),
            has_moved("last_change_at"),
        ),
        "last_changed_at moved": (ids_of("changed", "regressed"), moved_in("last_changed_at")),
        "first_seen_at moved": (set(), moved_in("first_seen_at")),
        "missing_since moved": (ids_of("missing", "returned"), moved_in("missing_since")),
        "rows written without reason": (set(), _written(before, after) - _may_be_written(model, effect, after)),
        "rows deleted": (set(), before.row_versions.keys() - after.row_versions.keys()),
    }
    return {aspect: pair for aspect, pair in expected_and_shown.items() if pair[0] != pair[1]}


def _values_and_missing(row: asyncpg.Record) -> tuple[dict[str, Value], bool]:
    """Return the values of a row of the view checkpoints as the model has them, and whether it is missing."""
    extra = {f"extra_metrics.{name}": value for name, value in json.loads(row["extra_metrics"] or "{}").items()}
    columns = ("step_number", "fine_tuned_model_checkpoint", "train_loss", "valid_loss", "full_valid_loss")
    values = {name: row[name] for name in columns if row[name] is not None}
    return {**values, "created_at": round(row["created_at"].timestamp()), **extra}, row["missing_since"] is not None


def _change(row: asyncpg.Record) -> Change:
    """Return a row of the view changes as the model has it: with numbers, except in columns of text."""
    is_text = row["field"] in {None, "status", "fine_tuned_model_checkpoint"}
    old, new = (value if is_text or value is None else float(value) for value in (row["old_value"], row["new_value"]))
    return Change(row["kind"], row["checkpoint_id"], row["field"], old, new)


def _sort_key(change: Change) -> tuple[str, str, str]:
    return change.kind, change.checkpoint_id or "", change.field or ""


def _written(before: Views, after: Views) -> set[Row]:
    """Return the rows that existed before and were written since."""
    return {row for row, version in before.row_versions.items() if after.row_versions.get(row, version) != version}


def _may_be_written(model: Model, effect: Effect, after: Views) -> set[Row]:
    polls = zip(model.poll_rows, after.polls, strict=False)
    return {
        *(("polls", str(row["id"])) for expected, row in polls if expected is effect.poll_row),
        *(("checkpoints", name) for name in effect.written),
        *(("rejects", text) for text in effect.rejects),
    }
