"""A receiver, senders to it, and changes to send."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.provider.http import Session, open_session
from checkpointd.service.webhooks import open_senders, read_endpoints
from checkpointd.settings.model import FixedSettings
from checkpointd.telemetry.health import Health
from checkpointd.webhooks.sender import Sender
from support.receiver import SECRET, Received, Receiver

Open = Callable[..., Sender]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Yield a receiver whose answers the test sets."""
    async with Receiver() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Session]:
    """Yield an HTTP session."""
    async with open_session() as opened:
        yield opened


@pytest.fixture
def open_sender(
    store: Store, http: Session, health: Health, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Open:
    """Return a function that opens a sender to the receiver, with these settings."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    def open_(lease_seconds: float = 60, **given: Any) -> Sender:
        table = {
            "name": "hook",
            "url": receiver.url,
            "secret": "WEBHOOK_SECRET",
            "from": 1,
            "events": ["status"],
            **given,
        }
        settings = FixedSettings(webhooks=(table,), lease_seconds=lease_seconds)  # type: ignore[arg-type]
        return open_senders(settings, read_endpoints(settings), store, http, health)[0]

    return open_


@pytest.fixture
async def jobs(sql: asyncpg.Connection) -> dict[str, int]:
    """Store two jobs without changes. Returns their keys by id."""
    await sql.execute("insert into checkpointd.sources (name, kind) values ('openai', 'openai')")
    rows = await sql.fetch("""
        insert into checkpointd.jobs (source, id, tracked_by)
        select sources.key, new.id, 'command' from checkpointd.sources, (values ('ftjob-a'), ('ftjob-b')) as new (id)
        returning id, key""")
    return {row["id"]: row["key"] for row in rows}


async def add_statuses(sql: asyncpg.Connection, job: int, statuses: Sequence[str], at: str = "now()") -> None:
    """Append a change of the status of a job for each text."""
    await sql.execute(
        f"""insert into checkpointd.changes (at, job, kind, field, new_value)
        select {at}, $1, 'status', 'status', unnest($2::text[])""",
        job,
        statuses,
    )


async def add_checkpoints(sql: asyncpg.Connection, job: int, poll: int, count: int, kind: str = "new") -> None:
    """Append changes of so many checkpoints of a job, which one poll found."""
    await sql.execute(
        """insert into checkpointd.changes (job, poll, kind, checkpoint_id)
        select $1, $2, $4, format('ckpt-%s-%s', $2::bigint, n) from generate_series(1, $3::int) n""",
        job,
        poll,
        count,
        kind,
    )


async def view(sql: asyncpg.Connection) -> dict[str, Any]:
    """Return the row of the view."""
    return dict(await sql.fetchrow("select * from fine_tuning.webhooks"))


def statuses(received: Sequence[Received]) -> list[str]:
    """Return the new statuses that were received."""
    return [request.message["data"]["changes"][0]["new_value"] for request in received]


async def add_finding(sql: asyncpg.Connection, job: int | None, kind: str, *changes: str) -> None:
    """Store a finding of a job, or of the source, with these changes of it (fired, resolved)."""
    await sql.execute(
        """with found as (
          insert into checkpointd.findings (source, job, kind, since, message, value, checkpoint_id)
          select key, $1, $2, '2026-07-01 12:00:00Z', 'later', 1.5, 'ckpt-1' from checkpointd.sources returning id)
        insert into checkpointd.changes (at, job, kind, finding, field, new_value, old_value, checkpoint_id)
        select '2026-07-01 12:00:00Z', $1, change, id, $2, case change when 'fired' then 'it <rises>' end,
          case change when 'resolved' then 'it <rises>' end, 'ckpt-1'
        from found, unnest($3::text[]) change""",
        job,
        kind,
        changes,
    )


async def attempt_now(sql: asyncpg.Connection) -> None:
    """Let the next attempt be due."""
    await sql.execute("update checkpointd.webhooks set next_attempt_at = now()")
