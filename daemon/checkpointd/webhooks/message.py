"""The messages of the format standard: `{type, timestamp, data}`, as Standard Webhooks recommends. Pure."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from checkpointd.domain.feed import ChangeGroup
from checkpointd.webhooks.signature import message_id

TYPES: Final = {
    "new": "checkpoint.new",
    "changed": "checkpoint.changed",
    "regressed": "checkpoint.regressed",
    "missing": "checkpoint.missing",
    "expired": "checkpoint.expired",
    "returned": "checkpoint.returned",
    "status": "job.status",
    "fired": "finding.fired",
    "resolved": "finding.resolved",
}
"""The type of the message of each kind of changes."""

TEST_TYPE: Final = "webhook.test"


class Message(NamedTuple):
    """A message, and the number in the feed of the last change that it is about."""

    id: str
    body: bytes
    seq: int
    age: float
    """Seconds since this change was stored, when it was read."""


def standard_messages(webhook: str, groups: Sequence[ChangeGroup]) -> list[Message]:
    """Return a message for each group."""
    return [Message(message_id(webhook, group), _body(group), group.seq, group.age) for group in groups]


def standard_test(at: str) -> bytes:
    """Return the body of a test message; `at` is the time in UTC."""
    return _json({"type": TEST_TYPE, "timestamp": at, "data": {}})


def _body(group: ChangeGroup) -> bytes:
    data: dict[str, Any] = {
        "source": group.source,
        "fine_tuning_job_id": group.fine_tuning_job_id,
        "first_seq": group.first_seq,
        "seq": group.seq,
    }
    if group.finding is None:
        data["count"] = group.size
        data["changes"] = [{name: value for name, value in c.items() if value is not None} for c in group.changes]
    else:
        data["finding"] = group.finding
    return _json({"type": TYPES[group.kind], "timestamp": group.at, "data": data})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
