"""Job records as the job list gives them: read leniently, kept as received, every change of status noted."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

from checkpointd.domain.cadence import has_ended
from checkpointd.domain.checkpoint import is_sane_id
from checkpointd.postgres import queries
from checkpointd.postgres.connection import transaction
from checkpointd.postgres.save import MOMENTS
from checkpointd.postgres.save_rows import write_changes
from checkpointd.postgres.store import Store
from checkpointd.provider.page import Raw


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


def read_jobs(items: Iterable[Raw], holds_secret: Callable[[bytes], bool] = lambda _: False) -> list[JobRecord]:
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
        if isinstance(job.get("id"), str) and is_sane_id(job["id"]):
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


class _LeaseLostError(Exception):
    """Another daemon reads the job list meanwhile: what this one read is of the past."""


async def save_jobs(store: Store, source: int, lease_token: int, records: Sequence[JobRecord]) -> int:
    """Store what differs of the records of tracked jobs, while the job list is ours. Returns how many statuses changed.

    A changed status makes its job due at once, whatever it is: a job that has ended is listed once more right away, one
    that goes on is watched again. A job whose row somebody holds for long is left to the next reading.
    """
    moved, left = 0, records
    for pause in (0, *MOMENTS):
        await asyncio.sleep(pause)
        saved, left = await _save_differing(store, source, lease_token, left)
        moved += saved
        if not left:
            break
    return moved


async def _save_differing(
    store: Store, source: int, lease_token: int, records: Sequence[JobRecord]
) -> tuple[int, list[JobRecord]]:
    """Return how many statuses changed, and the records that have to wait for a row that is locked."""
    async with store.connection() as connection:
        rows = await connection.fetch(queries.READ_KNOWN_JOBS, source, [r.id for r in records])
        stored = {row["id"]: row for row in rows}
        differing = {
            stored[r.id]["key"]: r
            for r in records
            if r.id in stored and stored[r.id]["digest"] != sha256(r.payload.encode()).digest()
        }
        if not differing:
            return 0, []
        old = {row["key"]: row["status"] for row in rows}
        moved = {key: r.status for key, r in differing.items() if r.status is not None and r.status != old[key]}
        left: list[JobRecord] = []
        with suppress(_LeaseLostError):
            async with transaction(connection):
                if moved:
                    woken = await connection.fetch(
                        queries.WAKE_JOBS,
                        list(moved),
                        [has_ended(status) for status in moved.values()],
                        [old[key] is not None for key in moved],
                    )
                    locked = moved.keys() - {row["job"] for row in woken}
                    left = [differing.pop(key) for key in locked]
                if not await connection.fetch(queries.FENCE_JOB_LIST, source, lease_token):
                    raise _LeaseLostError
                if differing:
                    columns = zip(*[(key, *record[1:]) for key, record in differing.items()], strict=True)
                    await connection.execute(queries.UPDATE_JOBS, *map(list, columns))
                changes = [
                    (key, None, "status", None, "status", old[key], moved[key]) for key in differing if key in moved
                ]
                await write_changes(connection, changes)
            return len(changes), left
    return 0, []
