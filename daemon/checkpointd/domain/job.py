"""A job, its status, and its job record, which is its entry in the job list. Pure.

A job record is read leniently: a field that cannot be read is None, and the whole record is kept as received.
The states of a job are in job_state.py.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from checkpointd.domain.checkpoint import RawItem, is_valid_id

ENDED_STATUSES: Final = frozenset({"succeeded", "failed", "cancelled", "canceled"})
"""The final statuses, in lower case: training does not go on after them."""

WAITING_STATUSES: Final = frozenset({"validating_files", "queued", "created", "pending", "paused", "pausing"})
"""The statuses in which no checkpoint can arrive, in lower case. A status in neither set counts as running."""


def has_ended(status: str | None) -> bool:
    """Return whether a status is final, in upper or lower case. None is not."""
    return (status or "").casefold() in ENDED_STATUSES


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job, for the commands."""

    key: int
    """The private key of its row."""
    id: str
    """The provider's id."""
    source: int
    """The key of its source."""
    source_name: str
    tracked: bool


class JobRecord(NamedTuple):
    """A job record of the job list.

    A field is None if it is absent, null, or not of the type that the API's specification gives it. `payload` is the
    whole record as received. Times are Unix seconds; `hyperparameters`, `error` and `metadata` are JSON.
    """

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
    """Read the records of one page. If several records have the same id, the last one counts.

    An item is left out if it is not a JSON object, if its id is not valid, or if `holds_secret` is true for it.
    """
    records = {}
    for raw in items:
        try:
            payload = bytes(raw).decode()
            job = json.loads(payload, parse_constant=_reject_constant)
        except (ValueError, RecursionError):
            continue
        if not isinstance(job, dict) or holds_secret(bytes(raw)):
            continue
        # All ids become one parameter of a query, and an invalid id would make the query fail for all records.
        if isinstance(job.get("id"), str) and is_valid_id(job["id"]):
            records[job["id"]] = _record(job, payload)
    return list(records.values())


def _reject_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity. They are not JSON, and a column of type json rejects them."""
    raise ValueError(name)


def _record(job: dict[str, Any], payload: str) -> JobRecord:
    return JobRecord(
        id=job["id"],
        status=_text(job.get("status")),
        model=_text(job.get("model")),
        fine_tuned_model=_text(job.get("fine_tuned_model")),
        created_at=_integer(job.get("created_at")),
        finished_at=_integer(job.get("finished_at")),
        estimated_finish=_integer(job.get("estimated_finish")),
        trained_tokens=_integer(job.get("trained_tokens")),
        hyperparameters=_document(_hyperparameters(job)),
        error=_document(job.get("error")),
        metadata=_document(job.get("metadata")),
        payload=payload,
    )


def _text(value: object) -> str | None:
    """Return a printable text, or None. An empty text is None, because some servers send it instead of null."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _integer(value: object) -> int | None:
    """Return an integer of 64 bits, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _document(value: object) -> str | None:
    """Return a value as JSON, or None if it is null or a query could not read it.

    PostgreSQL stores an escaped NUL character in a column of type json, but every query that reads such a text fails.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False) if value is not None else None
    except ValueError:  # a number that is too large was read as infinity
        return None
    return text if text and "\\u0000" not in text and _is_utf8(text) else None


def _is_utf8(text: str) -> bool:
    """Return whether a text can be encoded. A lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hyperparameters(job: dict[str, Any]) -> object:
    """Return the hyperparameters of the job or, if it has none, those of its method (dpo, reinforcement)."""
    method = job.get("method")
    options = method.get(str(method.get("type"))) if isinstance(method, dict) else None
    return job.get("hyperparameters") or (options.get("hyperparameters") if isinstance(options, dict) else None) or None
