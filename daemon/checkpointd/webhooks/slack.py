"""The messages of the format slack: `{text}`, for Slack's incoming webhooks and compatible receivers. Pure.

All changes of a minute become one message.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from checkpointd.domain.feed import ChangeGroup
from checkpointd.webhooks.message import Message
from checkpointd.webhooks.signature import message_id

MOST_LINES: Final = 5
"""How many lines of a kind a message has. The others are counted."""

_LONGEST_LINE: Final = 300
_MINUTE: Final = len("2026-07-01T12:00")

_PHRASES: Final = {
    "new": "new checkpoints",
    "changed": "values changed",
    "regressed": "values lost, which are kept",
    "missing": "checkpoints no longer listed",
    "expired": "checkpoints expired",
    "returned": "checkpoints listed again",
}
"""What is said of several changes of a kind, after their number."""


def slack_messages(webhook: str, groups: Sequence[ChangeGroup]) -> list[Message]:
    """Return a message for each minute."""
    minutes = [list(minute) for _, minute in groupby(groups, key=lambda group: group.at[:_MINUTE])]
    return [
        Message(message_id(webhook, minute[-1]), _body(_text(minute)), minute[-1].seq, minute[-1].age)
        for minute in minutes
    ]


def slack_test(at: str) -> bytes:
    """Return the body of a test message; `at` is the time in UTC."""
    return _body(f"checkpointd: a test message, sent at {at}")


def _body(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def _text(groups: Sequence[ChangeGroup]) -> str:
    """Return the lines about each kind, in the order in which the kinds first occur."""
    lines = []
    for kind in dict.fromkeys(map(_kind, groups)):
        described = [_line(group) for group in groups if _kind(group) == kind]
        lines += described[:MOST_LINES]
        if len(described) > MOST_LINES:
            lines.append(f"… and {len(described) - MOST_LINES} more like this")
    return "\n".join(lines)


def _kind(group: ChangeGroup) -> tuple[str, str]:
    return group.kind, "" if group.finding is None else group.finding["kind"]


def _line(group: ChangeGroup) -> str:
    last = group.changes[-1]
    if group.finding is not None:
        said = f"{'resolved: ' if group.kind == 'resolved' else ''}{group.finding['kind']}: {group.finding['message']}"
    elif group.kind == "status":
        said = f"{last['old_value'] or 'unknown'} → {last['new_value'] or 'unknown'}"
    else:
        said = f"{group.size} {_PHRASES[group.kind]}{_step(last)}"
        said = said.replace("checkpoints", "checkpoint").replace("values", "value") if group.size == 1 else said
    subject = f"{group.source} {group.fine_tuning_job_id}" if group.fine_tuning_job_id else group.source
    line = " ".join(f"{subject}: {said}".split())
    return _escape(line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…")


def _step(change: dict[str, Any]) -> str:
    step = (change["initial_values"] or {}).get("step_number")
    return f", up to step {step}" if step else ""


def _escape(text: str) -> str:
    """Return a text in which nothing is a link or a mention (docs.slack.dev, formatting message text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
