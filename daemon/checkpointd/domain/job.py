"""A job, its id, its status, and its job record, which is its entry in the job list. Pure.

A job record is read by the rules of reading.py. Only its id is important. The states of a job are in job_state.py.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from checkpointd.domain.raw_item import LARGEST_ITEM, head, id_of, without_secrets
from checkpointd.domain.reading import (
    LATER_COUNTS,
    BadItemError,
    Item,
    Odd,
    RawItem,
    Reject,
    integer,
    text,
    time,
)  # fmt: skip

ENDED_STATUSES: Final = frozenset({"succeeded", "failed", "cancelled", "canceled", "completed", "error"})
"""The final statuses, in lower case: training does not go on after them."""

WAITING_STATUSES: Final = frozenset({"validating_files", "queued", "created", "pending", "paused", "pausing"})
"""The statuses in which no checkpoint can arrive, in lower case. A status in neither set counts as running."""


JOB_ID: Final = r"(?!sk[-_]|ftckpt_)[A-Za-z0-9][A-Za-z0-9._~:@=+-]{0,255}"
"""The pattern of a job id, which becomes a segment of a URL's path. So it has no slash, percent sign or blank, and is
not `.` or `..`. A text that begins like a key or like the id of a checkpoint is not the id of a job. The function
fine_tuning.track has the same pattern."""

_matches_job_id: Final = re.compile(JOB_ID).fullmatch


def is_job_id(text: str) -> bool:
    """Return whether a text can be the id of a job."""
    return _matches_job_id(text) is not None


def has_ended(status: str | None) -> bool:
    """Return whether a status is final, in upper or lower case. None is not."""
    return (status or "").casefold() in ENDED_STATUSES


def is_waiting(status: str | None) -> bool:
    """Return whether no checkpoint can arrive in a status, in upper or lower case. None is not such a status."""
    return (status or "").casefold() in WAITING_STATUSES


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

    A field is None if it is absent, null or odd. Times are Unix seconds; `hyperparameters`, `error` and `metadata` are
    JSON. `payload` is the whole record, as a column of type json accepts it. `reject` names the odd values, or is None.
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
    reject: Reject | None


class JobPage(NamedTuple):
    """The records of one page of the job list, one for each id, and its rejects: the records that cannot be read."""

    records: list[JobRecord]
    rejects: list[Reject]


def read_record(raw: RawItem) -> JobRecord:
    """Read a job record of OpenAI's format. Raises BadItemError if its id is odd."""
    if len(raw) > LARGEST_ITEM:
        raise BadItemError(f"larger than {LARGEST_ITEM} bytes")
    item = Item(bytes(raw))
    hyperparameters = item.document("hyperparameters", _hyperparameters(item.members))
    record = JobRecord(
        id=item.require("id", job_id),
        status=item.read("status", text),
        model=item.read("model", text),
        fine_tuned_model=item.read("fine_tuned_model", text),
        created_at=item.read("created_at", time),
        finished_at=item.read("finished_at", time),
        estimated_finish=item.read("estimated_finish", time),
        trained_tokens=item.read("trained_tokens", integer),
        hyperparameters=hyperparameters,
        error=item.document("error", item.members.get("error")),
        metadata=item.document("metadata", item.members.get("metadata")),
        payload=item.payload,
        reject=None,
    )
    return record._replace(reject=Reject(head(raw), item.flaw, record.id, is_stored=True)) if item.flaw else record


def job_id(value: object) -> str | Odd | None:
    """Return the id of a job. This is a rule for a value, as those of reading.py."""
    found = text(value)
    return Odd("not the id of a job") if isinstance(found, str) and not is_job_id(found) else found


def _hyperparameters(job: Mapping[str, Any]) -> object:
    """Return the hyperparameters of the job or, if it has none, those of its method (dpo, reinforcement)."""
    method = job.get("method")
    options = method.get(str(method.get("type"))) if isinstance(method, dict) else None
    return job.get("hyperparameters") or (options.get("hyperparameters") if isinstance(options, dict) else None) or None


ReadRecord = Callable[[RawItem], JobRecord]
"""Reads a job record of a wire format. Raises BadItemError if its id is odd."""


def read_jobs(
    items: Sequence[RawItem],
    holds_secret: Callable[[bytes], bool] = lambda _: False,
    read_record: ReadRecord = read_record,
) -> JobPage:
    """Read the records of one page. If several records have the same id, the last one counts.

    A record for which `holds_secret` is true (the provider repeated the key) becomes a reject without its bytes.
    """
    records: dict[str, JobRecord] = {}
    rejects: list[Reject] = []
    for raw in without_secrets(items, holds_secret, rejects):
        try:
            record = read_record(raw)
        except BadItemError as e:
            rejects.append(Reject(head(raw), str(e), id_of(raw, is_job_id)))
        else:
            if (earlier := records.get(record.id)) and earlier.payload != record.payload:
                rejects.append(Reject(head(earlier.payload.encode()), LATER_COUNTS, record.id))
            records[record.id] = record
    return JobPage(list(records.values()), rejects)
