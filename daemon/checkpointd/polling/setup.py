"""From the settings to what polls: the sources with their keys, clients and limits; poller and discovery over them."""

import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp

from checkpointd.domain.cadence import Bounds
from checkpointd.polling.job_list import Discovery
from checkpointd.polling.poller import Poller, polling
from checkpointd.polling.save_queue import Report
from checkpointd.polling.source import Service
from checkpointd.postgres.store import Store
from checkpointd.provider import client as api
from checkpointd.redaction import secrets_of
from checkpointd.settings.model import Settings, Source

Keyed = Mapping[str, Mapping[str, str]]
"""The request headers of each source by name, its key among them."""


def open_services(
    settings: Settings, keys: Mapping[str, int], http: aiohttp.ClientSession, keyed: Keyed
) -> list[Service]:
    """Make what is needed to serve each source that has a key; `keys` are the database's, by name."""
    limits = api.Limits(settings.page_size, settings.request_timeout_seconds)

    def serve(source: Source) -> Service:
        client = open_client(source, keyed[source.name], http, limits)
        return Service(keys[source.name], source.name, client, settings.concurrency, source.emission)

    return [serve(source) for source in settings.sources if source.name in keyed]


def open_client(
    source: Source, headers: Mapping[str, str], http: aiohttp.ClientSession, limits: api.Limits
) -> api.Client:
    """Make what asks a source, with these request headers, and repeats none of its secrets."""
    secrets = secrets_of(source.query, headers)
    return api.Client(http, source.base_url, headers, source.query, limits, secrets=secrets)


@asynccontextmanager
async def pollers(
    settings: Settings, store: Store, services: Sequence[Service], report: Report | None = None
) -> AsyncIterator[tuple[Poller, list[Discovery]]]:
    """Open what polls, and drain it at the end."""
    # What was made so far lives as long as the process: the collector need not walk it again (8 % of a quiet poll).
    gc.freeze()
    bounds = Bounds(
        settings.min_poll_seconds, settings.max_poll_seconds, settings.settle_seconds, settings.assume_ended_seconds
    )
    gap, lease_seconds, discover = settings.job_list_seconds, settings.lease_seconds, settings.discover
    discoveries = [Discovery(store, s, gap=gap, lease_seconds=lease_seconds, discover=discover) for s in services]
    async with polling(store, services, bounds, lease_seconds, settings.drain_seconds, report) as poller:
        yield poller, discoveries
