"""What is read of the feed of changes to send it: groups of changes. Pure."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class ChangeGroup(NamedTuple):
    """Changes of one kind that one poll found in one job; or one other change, such as that of a finding."""

    seq: int
    """The number of its last change in the feed; `first_seq` is that of its first one."""
    first_seq: int
    at: str
    """The time when it was stored, such as 2026-07-01T12:00:00.000000Z."""
    age: float
    """Seconds since that time, when it was read."""
    kind: str
    source: str
    fine_tuning_job_id: str | None
    """None for a finding about the source."""
    size: int
    """The number of its changes."""
    changes: Sequence[dict[str, Any]]
    """The last of them, in the order of the feed, with columns of the view `changes`."""
    finding: dict[str, Any] | None
    """What fired or was resolved, with columns of the view `findings`; None for other changes."""


def pattern_to_regex(pattern: str) -> str:
    """Return the regular expression, for Python or PostgreSQL, of a pattern in which only * and ? are special."""
    parts = {"*": ".*", "?": "."}
    return "^(?:" + "".join(parts.get(c, re.sub(r"\W", r"\\\g<0>", c)) for c in pattern) + ")$"
