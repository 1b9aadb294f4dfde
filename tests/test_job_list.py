"""The job list is leased like a poll, and given back at a stop."""

import asyncio

import asyncpg

from checkpointd.discovery import Discovery
from checkpointd.service import Service
from checkpointd.store import Store, connect, open_store
from faults.proxy import Proxy
from harness import serving
from provider import Provider


def _discovery(store: Store, service: Service) -> Discovery:
    return Discovery(store, service, gap=30, lease_seconds=60, discover=False)


async def test_cut_short_in_its_claim_it_leaves_no_lease(url: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """A stop between the claim of the job list and its answer leaves the list free for others."""
    held = "select job_list_lease_expires_at is not null from checkpointd.sources"
    async with (
        Proxy(url) as proxy,
        open_store(lambda: connect(proxy.url)) as store,
        serving(store, provider) as service,
    ):
        proxy.latency = 0.1
        reading = asyncio.ensure_future(_discovery(store, service).tick())
        async with asyncio.timeout(20):
            while not await sql.fetchval(held):  # noqa: ASYNC110  # another process writes, and gives no event
                await asyncio.sleep(0.005)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
    assert not await sql.fetchval(held)
    assert [] == provider.requests
