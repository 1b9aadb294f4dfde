"""Parts of the daemon in the process of a test, over a scripted provider: poll jobs once, or tick like the daemon."""

import asyncio
from collections.abc import AsyncIterator, Callable
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

CADENCE = CadenceSettings(15, 300, settle=86400, assume_ended=3 * 86400)


@asynccontextmanager
async def open_source(
    store: Store,
    provider: Provider,
    *,
    page_size: int = 100,
    request_interval: float | None = None,
    request_timeout: float = 5,
    key: str = "canary-key",
    key_header: str = "Authorization",
) -> AsyncIterator[ActiveSource]:
    """Open the source `test`, which sends its requests to `provider`."""
    keys = await store.register_sources({"test": "openai"})
    async with open_session() as http:
        limits = Limits(page_size, request_timeout=request_timeout, backoff=0.01)
        client = Client(http, provider.url, {key_header: f"Bearer {key}"}, {}, limits, secrets=[key])
        yield ActiveSource(keys["test"], "test", client, concurrency=8, request_interval=request_interval)


@asynccontextmanager
async def polling_one(
    store: Store,
    provider: Provider,
    *,
    lease: float = 60.0,
    drain: float = 60.0,
    page_size: int = 100,
    request_interval: float | None = None,
    request_timeout: float = 5,
    health: Health | None = None,
) -> AsyncIterator[tuple[Poller, ActiveSource, dict[str, Outcome]]]:
    """Open a poller over the source `test`. Yields the poller, its source, and the last outcome of each job."""
    outcomes: dict[str, Outcome] = {}
    health = health or Health()

    def report(lease: Lease, outcome: Outcome) -> None:
        outcomes[lease.id] = outcome

    queue = SaveQueue(store, health, report)
    async with (
        open_source(
            store, provider, page_size=page_size, request_interval=request_interval, request_timeout=request_timeout
        ) as source,
        open_poller(store, [source], CADENCE, lease, queue, health, drain) as poller,
    ):
        yield poller, source, outcomes


async def tick(poller: Poller) -> int:
    """Tick once, and wait until the polls have ended. Returns the number of polls."""
    claimed = await poller.tick()
    await poller.idle()
    return claimed


async def track(store: Store, *ids: str) -> None:
    """Track jobs of the source `test`: these ones, or JOB."""
    keys = await store.register_sources({"test": "openai"})
    await store.track(keys["test"], list(ids or (JOB,)))


async def sync(
    store: Store, provider: Provider, *ids: str, page_size: int = 100, request_timeout: float = 5
) -> dict[str, Outcome]:
    """Track jobs, poll them once, and save the polls. Returns their outcomes."""
    ids = ids or (JOB,)
    await track(store, *ids)
    polling = polling_one(store, provider, page_size=page_size, request_timeout=request_timeout)
    async with polling as (poller, _, outcomes):
        assert not await poller.poll_named(await store.find_jobs(ids))
    return outcomes


async def read_job_list(store: Store, provider: Provider, *, discover: bool = False) -> None:
    """Read the job list once."""
    async with open_source(store, provider) as source:
        await JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=10_000 if discover else 0).tick(
            due_or_not=True
        )


async def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds that no event announces."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)  # between two evaluations


async def until_true(sql: asyncpg.Connection, query: str, *args: object, seconds: float = 60) -> None:
    """Wait until a query returns true. Another session must make it true, and sends no event."""
    async with asyncio.timeout(seconds):
        while not await sql.fetchval(query, *args):  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)  # between two queries


async def row_versions(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the version (xmin, ctid) of each row in the tables that a quiet poll must not write."""
    tables = ("checkpoints", "changes", "polls", "rejects", "jobs", "summaries")
    selects = (f"select '{table}' as t, ctid::text, xmin::text from checkpointd.{table}" for table in tables)
    return await sql.fetch(f"{' union all '.join(selects)} order by 1, 2")
