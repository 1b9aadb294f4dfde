"""The rows of the statements that take many rows, one array for each column.

The fields of each NamedTuple are the aliases in the statement, in the same order. A test compares them.
"""

from collections.abc import Sequence
from typing import NamedTuple


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


class FinishedRow(NamedTuple):
    """A row of finish_polls.sql."""

    job: int
    delay: float
    gap: float
    complete: bool
    changed: bool
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
    poll: int | None
    newest_step: int | None
    spacing_s: float | None
    spread_s: float | None
    blames_job: bool
    gone: bool


class UpdatedRow(NamedTuple):
    """A row of update_checkpoints.sql."""

    job: int
    id: str
    step_number: int
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


class MarkedRow(NamedTuple):
    """A row of mark_checkpoints.sql."""

    job: int
    id: str
    missing: bool


class SummaryRow(NamedTuple):
    """A row of summarise_jobs.sql."""

    job: int
    burst: bool


class RejectRow(NamedTuple):
    """A row of save_rejects.sql. Of `job` and `source` one is None."""

    job: int | None
    source: int | None
    digest: bytes
    reason: str
    raw: bytes | None
    is_stored: bool


class PollRow(NamedTuple):
    """A row of insert_polls.sql."""

    job: int
    outcome: str
    error_class: str | None
    items: int
    new: int
    changed: int


class ExtendedRow(NamedTuple):
    """A row of extend_polls.sql."""

    id: int
    items: int


class JobRow(NamedTuple):
    """A row of update_jobs.sql."""

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


class WokenRow(NamedTuple):
    """A row of wake_jobs.sql."""

    job: int
    ended: bool
    wake: bool


class ChangeRow(NamedTuple):
    """A row of insert_changes.sql."""

    job: int
    poll: int | None
    kind: str
    checkpoint_id: str | None
    field: str | None
    old_value: str | None
    new_value: str | None


def columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Return rows as one list for each column."""
    return [list(column) for column in zip(*rows, strict=True)]
