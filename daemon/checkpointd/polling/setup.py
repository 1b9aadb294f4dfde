"""Create the parts of polling, as configured: sources with their clients, job lists, the save queue, the poller."""

import asyncio
import gc
import math
import resource
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.job_filter import ALL_JOBS, JobFilter
from checkpointd.domain.key_schedule import KeySchedule
from checkpointd.polling.events import EventLists
from checkpointd.polling.job_list import JobList
from checkpointd.polling.learning import learn
from checkpointd.polling.poller import DRAIN_SHARE, Poller
from checkpointd.polling.save_queue import Report, SaveQueue
from checkpointd.polling.slots import MOST_PER_SLOT
from checkpointd.polling.source import ActiveSource, Renewal
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.http import Limits, Session
from checkpointd.provider.proxy import Proxy
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.discovery import Discovery
from checkpointd.settings.model import Settings
from checkpointd.settings.source import RequestFields, Source
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.hidden import hide
from checkpointd.telemetry.logs import log

SAVED_SHARE: Final = 0.7
"""The share of the drain time within which the last polls must be saved."""

LAST_SAVE_SECONDS: Final = 1.0
"""The shortest time for the last save, which also releases the jobs of cancelled polls."""

KEPT_LOGINS: Final = 3
"""So many earlier secrets of a source are still removed from texts: requests with them may still be running."""

FieldsBySource = Mapping[str, RequestFields]
"""What the requests to each source carry, by its name, with its key."""


def open_sources(
    settings: Settings, keys: Mapping[str, int], http: Session, fields_by_source: FieldsBySource
) -> list[ActiveSource]:
    """Return an ActiveSource for each source that has fields. `keys` are the keys of their rows, by name."""
    limits = Limits(settings.page_size, settings.request_timeout_seconds)
    # Half of the files that this process may open are for requests; the rest is for the database and the status port.
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    share = math.inf if files == resource.RLIM_INFINITY else files // 2 // max(len(settings.sources), 1)
    most_polls = int(max(min(MOST_PER_SLOT * settings.concurrency, share), settings.concurrency))
    opened = []
    for source in settings.sources:
        if fields := fields_by_source.get(source.name):
            proxy = open_proxy(source)
            client = open_client(source, fields, proxy, http, limits)
            renew = _renewal(source, fields, proxy, http, limits)
            key, interval = keys[source.name], source.request_interval
            schedule, has_key = KeySchedule(is_command=source.api_key is None), source.api_key is not None
            opened.append(
                ActiveSource(
                    key, source.name, client, settings.concurrency, interval, renew, schedule, has_key, most_polls
                )
            )
    return opened


def open_proxy(source: Source) -> Proxy | None:
    """Return the proxy of a source with its credentials, which are read at each call. Raises SettingsError."""
    return Proxy(source.proxy, source.read_proxy_credentials()) if source.proxy else None


def open_client(
    source: Source,
    fields: RequestFields,
    proxy: Proxy | None,
    http: Session,
    limits: Limits,
    old_secrets: Sequence[str] = (),
) -> Client:
    """Return a client for a source. Its failures contain no secret of the source, and no old one."""
    secrets = [*source_secrets(fields, proxy), *old_secrets]

    def report_page_size(page_size: int, error: str) -> None:
        log.warning("source.page_size", source=source.name, page_size=page_size, error=error)

    preset = PRESETS[source.kind]
    limits = limits._replace(page_size=min(limits.page_size, preset.most_items or limits.page_size))
    return Client(
        http, source.base_url, fields.headers, fields.query, limits, secrets, proxy, report_page_size, preset.format
    )


def source_secrets(fields: RequestFields, proxy: Proxy | None) -> list[str]:
    """Return the secrets of the requests of a source, and those of its proxy."""
    return [*fields.secrets, *(proxy.secrets if proxy else ())]


def _renewal(
    source: Source, fields: RequestFields, proxy: Proxy | None, http: Session, limits: Limits
) -> Callable[[], Awaitable[Renewal]]:
    """Return a function that runs the command for the key, and reads the key and the other credentials again."""
    old_secrets = deque[list[str]](maxlen=KEPT_LOGINS)

    async def renew() -> Renewal:
        nonlocal fields, proxy
        try:
            issued = await source.issue_key()
            hide(issued.secrets if issued else [], owner=f"{source.name} printed")
            found = await asyncio.to_thread(source.request_fields, issued and issued.key)
            found_proxy = await asyncio.to_thread(open_proxy, source)
        except SettingsError as e:  # perhaps a file is just being replaced
            return Renewal(problem=None if source.api_key else str(e))
        seconds = issued and issued.seconds
        if (found, found_proxy) == (fields, proxy):
            return Renewal(seconds=seconds)
        old_secrets.append(source_secrets(fields, proxy))
        fields, proxy = found, found_proxy
        hidden = [secret for secrets in old_secrets for secret in secrets]
        hide([*source_secrets(fields, proxy), *hidden], owner=source.name)
        return Renewal(open_client(source, fields, proxy, http, limits, hidden), seconds)

    return renew


def read_cadence(settings: Settings) -> CadenceSettings:
    """Return the settings of the cadence."""
    return CadenceSettings(
        settings.min_poll_seconds, settings.max_poll_seconds, settings.settle_seconds, settings.assume_ended_seconds
    )


def read_discovery(settings: Settings, source: Source) -> JobFilter | None:
    """Return which of the jobs that a source lists are tracked, or None if none are."""
    found = settings.discovery(source)
    return JobFilter(*found) if isinstance(found, Discovery) else ALL_JOBS if found else None


def open_event_lists(
    settings: Settings, store: Store, sources: Sequence[ActiveSource], health: Health
) -> list[EventLists]:
    """Return the event lists of the sources."""
    lease_seconds = settings.lease_seconds

    def open_lists(source: ActiveSource) -> EventLists:
        gap = settings.events_seconds if source.client.format.events else 0  # sealing does not wait for lists of gap 0
        return EventLists(store, source, health, gap=gap, lease_seconds=lease_seconds)

    return [open_lists(source) for source in sources]


@asynccontextmanager
async def start_polling(
    settings: Settings, store: Store, sources: Sequence[ActiveSource], health: Health, report: Report | None = None
) -> AsyncIterator[tuple[Poller, list[JobList]]]:
    """Open the poller and the job lists. At the end the poller is drained."""
    # The objects that exist now live as long as the process. If the garbage collector ignores them, and does not run
    # for every 700 new objects, a quiet poll takes a tenth less.
    gc.freeze()
    gc.set_threshold(10_000)
    cadence = read_cadence(settings)
    await learn(store, sources, cadence.unknown_source.prior, health)
    gap, lease_seconds = settings.job_list_seconds, settings.lease_seconds
    configured = {source.name: source for source in settings.sources}
    job_lists = []
    for source in sources:
        if not source.client.format.jobs:
            continue
        discovery = read_discovery(settings, configured[source.name])
        max_new = settings.max_new_jobs_per_day if discovery else 0
        job_lists.append(
            JobList(
                store, source, health,
                gap=gap, lease_seconds=lease_seconds, max_new_jobs=max_new, job_filter=discovery or ALL_JOBS,
            )
        )  # fmt: skip
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
