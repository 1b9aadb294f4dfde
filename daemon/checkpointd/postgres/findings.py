"""Evaluate the rules of sql/views/finding_rules.sql."""

from collections.abc import Sequence
from typing import Any, Final

from checkpointd.postgres import queries
from checkpointd.postgres.store import Store

EVALUATE_SECONDS: Final = 15.0
"""The interval between two evaluations, by whichever daemon."""

CLEAR_SECONDS: Final = 300.0
"""For how long the condition of a finding must not have been met before the finding is resolved."""

CHANGES_AT_ONCE: Final = 2000
JOBS_OF_EACH_KIND: Final = 500
"""How many changes one transaction looks at, and how many jobs with open findings, with new steps, with a checkpoint
that expires soon, and of which something else may be found without a change. It takes a second at most."""


async def evaluate_findings(
    store: Store, interval_seconds: float = EVALUATE_SECONDS, clear_seconds: float = CLEAR_SECONDS
) -> tuple[list[int], list[int]]:
    """Evaluate findings, unless a daemon did so within the interval. Returns the ids of the fired and resolved ones.

    Raises DatabaseUnavailableError.
    """
    fired: list[int] = []
    resolved: list[int] = []
    is_behind = True
    while is_behind:
        (row,) = await store.fetch(
            queries.EVALUATE_FINDINGS, interval_seconds, clear_seconds, CHANGES_AT_ONCE, JOBS_OF_EACH_KIND
        )
        fired += row["fired"]
        resolved += row["resolved"]
        is_behind, interval_seconds = row["is_behind"], 0.0
    return fired, resolved


async def read_findings(store: Store, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return findings in the order of their ids: source, job (or None), kind, until (or None) and message.

    Raises DatabaseUnavailableError.
    """
    return [dict(row) for row in await store.fetch(queries.READ_FINDINGS, ids)]
