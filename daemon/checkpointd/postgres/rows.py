"""The rows of the statements that take many rows, one parameter for each column.

The fields of each NamedTuple are the aliases in the statement, in the same order. A test compares them.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple, NewType, get_type_hints

import msgspec

Line = NewType("Line", str)
"""A text that is never null and has no line breaks."""


class QuietRow(NamedTuple):
    """A row of save_quiet_polls.sql."""

    job: int
    lease_token: int
    gap: float
    ended: bool
    settled: bool
    digest: bytes | None
    content_digest: bytes | None
    instability: int
    unstable: bool


class PollRow(NamedTuple):
    """A poll of save_polls.sql."""

    job: int
    lease_token: int
    delay: float
    gap: float
    complete: bool
    reopens: bool
    digest: bytes | None
    content_digest: bytes | None
    absent_ids: str | None
    unconfirmed_steps: str | None
    instability: int
    unstable: bool
    rejected: int | None
    error_class: str | None
    error: str | None
    newest_step: int | None
    newest_seen_at: float | None
    arrivals: int
    arrival_error_s: float
    first_arrival_s: float | None
    spacing_s: float | None
    spread_s: float | None
    publication_delay_s: float
    blames_job: bool
    gone: bool
    items: int
    new: int
    changed: int
    burst: bool


class CheckpointRow(NamedTuple):
    """A checkpoint of save_polls.sql."""

    job: int
    is_new: bool
    id: str
    step_number: int | None
    created_at: int | None
    fine_tuned_model_checkpoint: str | None
    step: float | None
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None
    extra_metrics: str | None
    payload: str
    details: str | None


class MarkRow(NamedTuple):
    """A mark of save_polls.sql."""

    job: int
    id: str
    missing: bool


class StepRow(NamedTuple):
    """A step of save_events.sql."""

    step_number: int
    id: Line
    created_at: int | None
    total_steps: int | None
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None
    extra_metrics: str | None
    payload: str | None
    is_newest: bool
    is_newer: bool


class MessageRow(NamedTuple):
    """A message of save_events.sql."""

    id: str
    created_at: int | None
    level: str | None
    type: str | None
    message: str | None
    payload: str | None


class RejectRow(NamedTuple):
    """A reject of save_polls.sql, save_job_records.sql and save_events.sql."""

    owner: int
    """The key of the job or, if that is not known, the negative key of the source."""
    digest: bytes
    reason: str
    raw: bytes | None
    is_stored: bool


class RecordRow(NamedTuple):
    """A job record of save_job_records.sql."""

    job: int
    status: str | None
    model: str | None
    fine_tuned_model: str | None
    created_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    hyperparameters: str | None
    error: str | None
    metadata: str | None
    payload: str


class StatusRow(NamedTuple):
    """A status that changed, of save_job_records.sql."""

    job: int
    ended: bool
    waits: bool
    old_value: str | None
    new_value: str


class ChangeRow(NamedTuple):
    """A change of save_polls.sql."""

    job: int
    kind: str
    checkpoint_id: str | None
    field: str | None
    old_value: str | None
    new_value: str | None


Column = Sequence[object] | str | None
"""The values of a column. Those of numbers and truth values are the text of an array, those of lines are joined by line
breaks. None if all values are null."""

_encode: Final = msgspec.json.Encoder().encode


def columns(kind: type[tuple[object, ...]], rows: Sequence[tuple[object, ...]]) -> Sequence[Column]:
    """Return rows of a kind as one parameter for each column."""
    return parameters(kind, list(zip(*rows, strict=True)) if rows else [()] * len(_hints(kind)))


def parameters(kind: type[tuple[object, ...]], columns: Sequence[Sequence[object]]) -> Sequence[Column]:
    """Return the columns of rows of a kind as parameters of their statement.

    A column of nulls becomes null: `unnest` expands it beside longer arrays. Numbers and truth values become the text
    of an array, which is that of a JSON array but for the brackets. The driver takes three times as long for an array,
    because it looks for other arrays in it, and that is most of the time of a save.
    """
    return [_parameter(*of) for of in zip(columns, _hints(kind), strict=True)]


def _parameter(column: Sequence[Any], hint: object) -> Column:
    if column and column[0] is None and column.count(None) == len(column):
        return None
    if hint is Line:
        return "\n".join(column)
    return column if hint in _TEXTS else f"{{{_encode(column)[1:-1].decode()}}}"


_TEXTS: Final = (str, str | None, bytes, bytes | None)


@cache
def _hints(kind: type[tuple[object, ...]]) -> Sequence[object]:
    """Return the types of the fields of a kind."""
    return list(get_type_hints(kind).values())
