"""Create the parts of polling, as configured: sources with their clients, job lists, the save queue, the poller."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from checkpointd.domain.cadence import CadenceSettings
from checkpointd.polling.job_list import JobList
from checkpointd.polling.poller import DRAIN_SHARE, Poller
from checkpointd.polling.save_queue import Report, SaveQueue
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, Session
from checkpointd.provider.proxy import Proxy
from checkpointd.redaction import secrets_of
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import hide, log

SAVED_SHARE: Final = 0.7
"""The share of the drain time within which the last polls must be saved."""

LAST_SAVE_SECONDS: Final = 1.0
"""The shortest time for the last save, which also releases the jobs of cancelled polls."""

HeadersBySource = Mapping[str, Mapping[str, str]]
"""The request headers of each source by name. They contain its key."""


def open_sources(
    settings: Settings, keys: Mapping[str, int], http: Session, headers_by_source: HeadersBySource
) -> list[ActiveSource]:
    """Return an ActiveSource for each source that has headers. `keys` are the keys of their rows, by name."""
    limits = Limits(settings.page_size, settings.request_timeout_seconds)
    opened = []
    for source in settings.sources:
        if headers := headers_by_source.get(source.name):
            proxy = open_proxy(source)
            client = open_client(source, headers, proxy, http, limits)
            renew = _renewal(source, headers, proxy, http, limits)
            key, interval = keys[source.name], source.request_interval
            opened.append(ActiveSource(key, source.name, client, settings.concurrency, interval, renew))
    return opened


def open_proxy(source: Source) -> Proxy | None:
    """Return the proxy of a source with its credentials, which are read at each call. Raises SettingsError."""
    return Proxy(source.proxy, source.read_proxy_credentials()) if source.proxy else None


def open_client(
    source: Source,
    headers: Mapping[str, str],
    proxy: Proxy | None,
    http: Session,
    limits: Limits,
    old_secrets: Sequence[str] = (),
) -> Client:
    """Return a client for a source. Its failures contain no secret of the source, and no old one."""
    secrets = [*_secrets(source, headers, proxy), *old_secrets]

    def report_page_size(page_size: int, error: str) -> None:
        log.warning("source.page_size", source=source.name, page_size=page_size, error=error)

    return Client(http, source.base_url, headers, source.query, limits, secrets, proxy, report_page_size)


def _secrets(source: Source, headers: Mapping[str, str], proxy: Proxy | None) -> list[str]:
    """Return the secrets of the requests of a source, and those of its proxy."""
    return [*secrets_of(source.query, headers), *(proxy.secrets if proxy else ())]


def _renewal(
    source: Source, headers: Mapping[str, str], proxy: Proxy | None, http: Session, limits: Limits
) -> Callable[[], Client | None]:
    """Return a function that reads the key and the proxy's credentials again.

    It returns a client with the new ones, or None if both are the same or cannot be read.
    """
    old_secrets: list[str] = []

    def renew() -> Client | None:
        nonlocal headers, proxy
        try:
            found, found_proxy = source.request_headers(), open_proxy(source)
        except SettingsError:  # perhaps the file is just being replaced
            return None
        if (found, found_proxy) == (headers, proxy):
            return None
        old_secrets.extend(_secrets(source, headers, proxy))
        headers, proxy = found, found_proxy
        hide(_secrets(source, headers, proxy))
        return open_client(source, headers, proxy, http, limits, old_secrets)

    return renew


@asynccontextmanager
async def start_polling(
    settings: Settings, store: Store, sources: Sequence[ActiveSource], health: Health, report: Report | None = None
) -> AsyncIterator[tuple[Poller, list[JobList]]]:
    """Open the poller and the job lists. At the end the poller is drained."""
    # The objects that exist now live as long as the process. If the garbage collector ignores them, a quiet poll is
    # 8 % faster.
    gc.freeze()
    cadence = CadenceSettings(
        settings.min_poll_seconds, settings.max_poll_seconds, settings.settle_seconds, settings.assume_ended_seconds
    )
    gap, lease_seconds, discover = settings.job_list_seconds, settings.lease_seconds, settings.discover
    job_lists = [JobList(store, s, health, gap=gap, lease_seconds=lease_seconds, discover=discover) for s in sources]
    queue = SaveQueue(store, health, report)
    async with open_poller(store, sources, cadence, lease_seconds, queue, health, settings.drain_seconds) as poller:
        yield poller, job_lists


@asynccontextmanager
async def open_poller(
    store: Store,
    sources: Sequence[ActiveSource],
    cadence: CadenceSettings,
    lease_seconds: float,
    queue: SaveQueue,
    health: Health,
    drain_seconds: float,
) -> AsyncIterator[Poller]:
    """Open a poller. At the end its polls finish or are released, and all finished polls are saved."""
    try:
        async with asyncio.TaskGroup() as group:
            saver = group.create_task(queue.run())
            poller = Poller(store, sources, cadence, lease_seconds, queue, health, group)
            try:
                yield poller
            finally:
                loop = asyncio.get_running_loop()
                saved_by = loop.time() + SAVED_SHARE * drain_seconds
                await poller.drain(DRAIN_SHARE * drain_seconds)
                queue.close(max(saved_by, loop.time() + LAST_SAVE_SECONDS))
                await saver
    except ExceptionGroup as e:
        raise e.exceptions[0] from None  # an exception of the block, or else an error of checkpointd itself
