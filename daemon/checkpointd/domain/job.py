"""A job: its record as the job list gives it, read leniently and kept as received; and its states. Pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from checkpointd.domain.checkpoint import RawItem, is_valid_id

ENDED_STATUSES = frozenset({"succeeded", "failed", "cancelled", "canceled"})
"""Statuses after which no training goes on (OpenAI's, and Azure's spelling)."""

WAITING_STATUSES = frozenset({"validating_files", "queued", "created", "pending", "paused", "pausing"})
"""Statuses in which no checkpoint can come. Any other, known to us or not, counts as running."""


def has_ended(status: str | None) -> bool:
    """Say whether no training goes on under this status."""
    return (status or "").casefold() in ENDED_STATUSES


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the operator's verbs meet it."""

    key: int
    id: str
    source: int
    source_name: str
    tracked: bool


class JobRecord(NamedTuple):
    """A job record. Fields that are absent, null or of another type than specified are None; `payload` has them all."""

    id: str
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


def read_jobs(items: Iterable[RawItem], holds_secret: Callable[[bytes], bool] = lambda _: False) -> list[JobRecord]:
    """Read the records of one page; what has no usable id is left out, and what `holds_secret` finds one in."""
    records = {}
    for raw in items:
        try:
            payload = bytes(raw).decode()
            job = json.loads(payload, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
        if not isinstance(job, dict) or holds_secret(bytes(raw)):
            continue
        if isinstance(job.get("id"), str) and is_valid_id(job["id"]):
            records[job["id"]] = _record(job, payload)
    return list(records.values())


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half a character (a lone surrogate)
        return False


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON: the column would refuse them


def _record(job: dict[str, Any], payload: str) -> JobRecord:
    def text(field: str) -> str | None:
        value = job.get(field)
        # Servers that have no null send an empty text.
        return value if isinstance(value, str) and value and value.isprintable() else None

    def integer(field: str) -> int | None:
        value = job.get(field)
        return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None

    def document(value: object) -> str | None:
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False) if value is not None else None
        except ValueError:  # a number beyond measure
            return None
        # What no text can hold would fail whoever looks into the document, and with it their whole query.
        return text if text and "\\u0000" not in text and _is_utf8(text) else None

    return JobRecord(
        job["id"], text("status"), text("model"), text("fine_tuned_model"), integer("created_at"),
        integer("finished_at"), integer("estimated_finish"), integer("trained_tokens"),
        document(_hyperparameters(job)), document(job.get("error")), document(job.get("metadata")), payload,
    )  # fmt: skip


def _hyperparameters(job: dict[str, Any]) -> object:
    """Return those of supervised jobs, which stand at the top, or else those of the job's method."""
    method = job.get("method")
    own = method.get(str(method.get("type"))) if isinstance(method, dict) else None
    return job.get("hyperparameters") or (own.get("hyperparameters") if isinstance(own, dict) else None) or None
