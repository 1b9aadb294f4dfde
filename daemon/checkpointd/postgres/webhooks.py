"""Claim a webhook, read the feed for it, and move its cursor. Each statement is its own transaction.

Every function may raise DatabaseUnavailableError.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from checkpointd.domain.delivery import Answer, Outcome
from checkpointd.domain.feed import ChangeGroup
from checkpointd.postgres import queries
from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.store import UNDO_SECONDS, Store, finish_or_undo

MOST_CHANGES: Final = 20_000
"""How many changes are looked at in one reading. It also limits the size of a group."""


class Selection(NamedTuple):
    """Which changes a webhook gets. The patterns are regular expressions."""

    kinds: Sequence[str]
    sources: Sequence[str]
    jobs: Sequence[str]
    most_groups: int
    """How many groups are read at once."""
    most_details: int
    """Of how many changes of a group, the last ones, the details are read."""
    past_minutes: bool
    """Whether changes wait until their minute is over."""


class WebhookLease(NamedTuple):
    """A lease on a webhook. The fields are the columns of claim_webhook.sql."""

    lease_token: int
    cursor: int
    failures: int
    failing_seconds: float


async def claim(
    store: Store, name: str, start: int | None, lease_seconds: float, *, past_minutes: bool
) -> WebhookLease | None:
    """Lease a webhook if changes wait for it. If cancelled, gives the lease back.

    A new webhook begins at the change `start`, or, if that is None or not yet stored, with the changes that are stored
    from now on.
    """

    async def lease() -> WebhookLease | None:
        rows = await store.fetch(queries.CLAIM_WEBHOOK, name, start, lease_seconds, past_minutes)
        return WebhookLease(*rows[0]) if rows else None

    async def undo(claimed: WebhookLease | None) -> None:
        if claimed is not None:
            await release(store, name, claimed)

    return await finish_or_undo(lease(), undo)


async def read_feed(store: Store, cursor: int, selection: Selection) -> tuple[list[ChangeGroup], int]:
    """Return the groups of changes after `cursor`, and the number up to which the feed was read for them."""
    (row,) = await store.fetch(
        queries.READ_FEED,
        cursor,
        selection.kinds,
        selection.sources,
        selection.jobs,
        MOST_CHANGES,
        selection.most_groups,
        selection.most_details,
        selection.past_minutes,
    )
    return [ChangeGroup(**group) for group in json.loads(row["groups"])], row["read_to"]


async def advance(
    store: Store, name: str, lease: WebhookLease, cursor: int, lease_seconds: float | None,
    outcome: Outcome | None = None, answer: Answer | None = None,
) -> bool:  # fmt: skip
    """Move the cursor, record the outcome of a delivery if there was one, and renew the lease or give it back.

    Returns whether the lease still held. Otherwise nothing is changed.
    """
    status, text = (answer.status, answer.text) if answer else (None, None)
    token = lease.lease_token
    rows = await store.fetch(queries.ADVANCE_WEBHOOK, name, token, cursor, lease_seconds, outcome, status, text)
    return bool(rows)


async def delay(store: Store, name: str, lease: WebhookLease, gap: float, answer: Answer) -> None:
    """Record a failed attempt, and give the lease back. The next attempt is made after `gap` seconds."""
    await store.fetch(queries.DELAY_WEBHOOK, name, lease.lease_token, gap, answer.status, answer.text)


async def release(store: Store, name: str, lease: WebhookLease) -> None:
    """Give a lease back. A task that is being cancelled waits for UNDO_SECONDS at most."""
    task = asyncio.current_task()
    async with database_deadline_in(UNDO_SECONDS if task and task.cancelling() else None):
        await store.fetch(queries.RELEASE_WEBHOOK, name, lease.lease_token)


async def replay(store: Store, name: str, seq: int) -> int | None:
    """Let the daemons send again from a change on. Returns the largest number that `seq` may be.

    It is one more than that of the last change. With a larger one nothing is done. Returns None if no webhook has this
    name.
    """
    rows = await store.fetch(queries.REPLAY_WEBHOOK, name, seq)
    return rows[0]["most_seq"] if rows else None


async def list_webhooks(store: Store) -> list[dict[str, Any]]:
    """Return the rows of the view `webhooks`."""
    return [dict(row) for row in await store.fetch(queries.LIST_WEBHOOKS)]
