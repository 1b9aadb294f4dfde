"""The daemon's parts in one process, over a scripted provider: poll jobs once, or tick as the daemon does."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.poll import Lease
from checkpointd.polling.job_list import JobList
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import Outcome, SaveQueue
from checkpointd.polling.setup import open_poller
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.telemetry.health import Health
from support.provider import JOB, Provider

BOUNDS = CadenceSettings(15, 300, settle=86400, assume_ended=3 * 86400)
Sync = Callable[..., Awaitable[dict[str, Outcome]]]


@asynccontextmanager
async def serving(
    store: Store, provider: Provider, *, page_size: int = 100, request_interval: float | None = None,
    request_timeout: float = 5, key: str = "canary-key",
) -> AsyncIterator[ActiveSource]:  # fmt: skip
    """Make the service of one source named `test`."""
    keys = await store.register_sources({"test": "openai"})
    async with open_session() as http:
        limits = Limits(page_size, request_timeout=request_timeout, backoff=0.01)
        client = Client(http, provider.url, {"Authorization": f"Bearer {key}"}, {}, limits, secrets=[key])
        yield ActiveSource(keys["test"], "test", client, concurrency=8, request_interval=request_interval)


@asynccontextmanager
async def polling_one(
    store: Store, provider: Provider, *, lease: float = 60.0, bounds: CadenceSettings = BOUNDS, drain: float = 60.0,
    page_size: int = 100, request_interval: float | None = None, request_timeout: float = 5,
    health: Health | None = None,
) -> AsyncIterator[tuple[Poller, ActiveSource, dict[str, Outcome]]]:  # fmt: skip
    """Open a poller over one source; the dict has what became of each job's last poll."""
    results: dict[str, Outcome] = {}
    health = health or Health()

    def report(of: Lease, result: Outcome) -> None:
        results[of.id] = result

    async with (
        serving(
            store, provider, page_size=page_size, request_interval=request_interval, request_timeout=request_timeout
        ) as service,
        open_poller(store, [service], bounds, lease, SaveQueue(store, health, report), health, drain) as poller,
    ):
        yield poller, service, results


async def tick(poller: Poller) -> int:
    """Tick, and let the polls that it started end."""
    claimed = await poller.tick()
    await poller.idle()
    return claimed


async def track(store: Store, *ids: str) -> None:
    """Track jobs of the source `test`."""
    keys = await store.register_sources({"test": "openai"})
    await store.track(keys["test"], list(ids or (JOB,)))


async def sync(
    store: Store, provider: Provider, *ids: str, page_size: int = 100, request_timeout: float = 5
) -> dict[str, Outcome]:
    """Track jobs and poll them once."""
    ids = ids or (JOB,)
    await track(store, *ids)
    async with polling_one(store, provider, page_size=page_size, request_timeout=request_timeout) as (
        poller,
        _,
        results,
    ):
        assert not await poller.poll_named(await store.find_jobs(ids))
    return results


async def read_job_list(store: Store, provider: Provider, *, discover: bool = False) -> None:
    """Read the job list once."""
    async with serving(store, provider) as service:
        await JobList(store, service, Health(), gap=30, lease_seconds=60, discover=discover).tick(due_or_not=True)


async def row_versions(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return all rows that quiet polls leave alone, each as the version that PostgreSQL gives to what it writes."""
    tables = ("checkpoints", "changes", "polls", "rejects", "jobs", "summaries")
    union = " union all ".join(
        f"select '{name}' as t, ctid::text, xmin::text from checkpointd.{name}" for name in tables
    )
    return await sql.fetch(f"{union} order by 1, 2")
