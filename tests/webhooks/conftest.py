"""A receiver, and changes to send."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.provider.http import Session, open_session
from checkpointd.service.webhooks import open_senders, read_endpoints
from checkpointd.settings.model import FixedSettings
from checkpointd.telemetry.health import Health
from checkpointd.webhooks.sender import Sender
from support.receiver import SECRET, Receiver

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
