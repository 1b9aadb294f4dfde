"""The daemon's parts in one process, over a scripted provider: poll jobs once, or tick as the daemon does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from checkpointd.domain.cadence import Bounds
from checkpointd.polling.job_list import Discovery
from checkpointd.polling.poller import Poller, polling
from checkpointd.polling.save_queue import Result
from checkpointd.polling.source import Service
from checkpointd.postgres.store import Lease, Store
from checkpointd.provider import client as api
from support.provider import JOB, Provider

BOUNDS = Bounds(15, 300, settle=86400, assume_ended=3 * 86400)
Sync = Callable[..., Awaitable[dict[str, Result]]]


@asynccontextmanager
async def serving(
    store: Store, provider: Provider, *, page_size: int = 100, emission: float | None = None,
    request_timeout: float = 5, key: str = "canary-key",
) -> AsyncIterator[Service]:  # fmt: skip
    """Make the service of one source named `test`."""
    keys = await store.register_sources({"test": "openai"})
    async with api.session() as http:
        limits = api.Limits(page_size, request_timeout=request_timeout, backoff=0.01)
        client = api.Client(http, provider.url, {"Authorization": f"Bearer {key}"}, {}, limits, secrets=[key])
        yield Service(keys["test"], "test", client, concurrency=8, emission=emission)


@asynccontextmanager
async def polling_one(
    store: Store, provider: Provider, *, lease: float = 60.0, bounds: Bounds = BOUNDS, drain: float = 60.0,
    page_size: int = 100, emission: float | None = None, request_timeout: float = 5,
) -> AsyncIterator[tuple[Poller, Service, dict[str, Result]]]:  # fmt: skip
    """Open a poller over one source; the dict has what became of each job's last poll."""
    results: dict[str, Result] = {}

    def report(of: Lease, result: Result) -> None:
        results[of.id] = result

    async with (
        serving(store, provider, page_size=page_size, emission=emission, request_timeout=request_timeout) as service,
        polling(store, [service], bounds, lease, drain, report) as poller,
    ):
        yield poller, service, results


async def tick(poller: Poller) -> int:
    """Tick, and let the polls that it started end."""
    claimed = await poller.tick()
    while poller._workers:
        await asyncio.wait(poller._workers)
    return claimed


async def track(store: Store, *ids: str) -> None:
    """Track jobs of the source `test`."""
    keys = await store.register_sources({"test": "openai"})
    await store.track(keys["test"], list(ids or (JOB,)))


async def sync(
    store: Store, provider: Provider, *ids: str, page_size: int = 100, request_timeout: float = 5
) -> dict[str, Result]:
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
        await Discovery(store, service, gap=30, lease_seconds=60, discover=discover).tick(due_or_not=True)


async def row_versions(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return all rows that quiet polls leave alone, each as the version that PostgreSQL gives to what it writes."""
    tables = ("checkpoints", "changes", "polls", "rejects", "jobs", "summaries")
    union = " union all ".join(
        f"select '{name}' as t, ctid::text, xmin::text from checkpointd.{name}" for name in tables
    )
    return await sql.fetch(f"{union} order by 1, 2")
