"""Processes that only send to a webhook, so that hundreds of them can be started and killed."""

import asyncio
import multiprocessing
import os
from multiprocessing.context import ForkServerProcess

from checkpointd.domain import delivery
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import open_store
from checkpointd.provider.http import open_session
from checkpointd.service.webhooks import open_senders, read_endpoints
from checkpointd.settings.model import FixedSettings
from checkpointd.telemetry.health import Health
from support.receiver import SECRET

LEASE_SECONDS = 0.5

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["checkpointd.service.daemon"])  # which imports what takes time to import


def start_sender(database_url: str, endpoint: str) -> ForkServerProcess:
    """Start a process that sends every new checkpoint and status, from the first one on, to an endpoint."""
    process = _context.Process(target=_run, args=(database_url, endpoint), daemon=True)
    process.start()
    return process


def _run(database_url: str, endpoint: str) -> None:
    os.environ["WEBHOOK_SECRET"] = SECRET
    delivery.FIRST_RETRY_GAP = 0.01  # type: ignore[misc]  # the test has no time for the usual one
    asyncio.run(_send(database_url, endpoint))


async def _send(database_url: str, endpoint: str) -> None:
    table = {"name": "hook", "url": endpoint, "secret": "WEBHOOK_SECRET", "from": 1, "events": ("new", "status")}
    settings = FixedSettings.model_construct(
        **FixedSettings(webhooks=(table,)).model_dump(exclude={"webhooks"}),  # type: ignore[arg-type]
        webhooks=FixedSettings(webhooks=(table,)).webhooks,  # type: ignore[arg-type]
    ).model_copy(update={"lease_seconds": LEASE_SECONDS})
    async with open_store(lambda: connect(database_url), 1) as store, open_session() as http:
        (sender,) = open_senders(settings, read_endpoints(settings), store, http, Health())
        while True:
            await sender.tick()
            await asyncio.sleep(0.02)
