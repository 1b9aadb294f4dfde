"""The life of the daemon: start, main loop, drain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from checkpointd.polling.findings import find
from checkpointd.polling.job_list import JobList
from checkpointd.polling.learning import learn
from checkpointd.polling.login import RENEW_SECONDS, renew_login
from checkpointd.polling.model_list import ModelList
from checkpointd.polling.poller import Poller
from checkpointd.polling.setup import FieldsBySource, open_event_lists, open_sources, read_cadence, start_polling
from checkpointd.polling.source import RESUMPTION_SECONDS, ActiveSource
from checkpointd.postgres import migrations
from checkpointd.postgres.arrivals import LEARN_SECONDS
from checkpointd.postgres.connection import Connect
from checkpointd.postgres.errors import DatabaseUnavailableError, MigrationError
from checkpointd.postgres.findings import EVALUATE_SECONDS
from checkpointd.postgres.objectives import set_source_objectives
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider.http import open_session
from checkpointd.service import systemd, webhooks
from checkpointd.service.database_changes import CHECK_SECONDS, SEAL_SECONDS, DatabaseChanges
from checkpointd.service.signals import Stop
from checkpointd.service.ticker import repeat, run_ticker
from checkpointd.service.watchdog import feed_watchdog, report_status
from checkpointd.settings.model import Settings
from checkpointd.telemetry import database_metrics, metrics
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.web import server
from checkpointd.webhooks.sender import TICK_SECONDS, Sender

WAIT_SECONDS: Final = 2.0
"""The interval of attempts while the database is unreachable or its schema is old."""

START_SECONDS: Final = 90.0
"""The time that the daemon requests from systemd for each attempt. If a start hangs for longer, systemd kills it."""

SPARE_SECONDS: Final = 10.0
"""The time that the daemon requests from systemd beyond the drain time, to close connections on a busy machine."""

WEB_POOL_SIZE: Final = 2
"""The connections of the status page. The page has its own, so that no poll waits for it."""

T = TypeVar("T")


async def run(
    settings: Settings, connect: Connect, fields_by_source: FieldsBySource, endpoints: webhooks.Endpoints, *,
    migrate: bool, stop: Stop,
) -> None:  # fmt: skip
    """Run the daemon until `stop`. With `migrate` it also keeps the schema up to date."""
    health = Health(waiting_for="starting")
    metrics.READY.set_function(lambda: not health.problems())
    metrics.create_series(source.name for source in settings.sources)
    async with (
        open_store(connect, WEB_POOL_SIZE) as web_store,
        server.serve(
            settings.http_host,
            settings.http_port,
            health.problems,
            web_store,
            list(settings.source_kinds),
            health.source_problems,
            lambda: health.can_poll(len(settings.sources)),
        ),
        open_store(connect) as store,
        open_store(connect, webhooks.WEBHOOK_POOL_SIZE) as webhook_store,
        open_session() as http,
    ):
        keys = await _run_unless(stop.asked, _prepare(settings, store, health, migrate=migrate))
        if keys is None:
            return
        sources = open_sources(settings, keys, http, fields_by_source)
        async with (
            _background() as background,
            asyncio.TaskGroup() as ticked,
            start_polling(settings, store, sources, health) as (poller, job_lists),
        ):
            stop.hurry = poller.cancel_polls
            background(feed_watchdog(lambda: None if stop.asked.is_set() else poller.stuck()))
            background(report_status(store, health, stop.asked))
            health.waiting_for = None
            log.info("daemon.ready", sources=[source.name for source in sources])
            systemd.notify(READY=1)
            changes = DatabaseChanges(store, health, settings.source_kinds, sources, settings.objectives)
            senders = webhooks.open_senders(settings, endpoints, webhook_store, http, health)
            with _ticking(settings, store, health, poller, job_lists, sources, changes, senders, ticked, stop):
                await stop.asked.wait()
            # systemd extends TimeoutStopSec if this is longer, and never shortens it.
            needed = int((settings.drain_seconds + SPARE_SECONDS) * 1e6)
            systemd.notify(STOPPING=1, STATUS="draining", EXTEND_TIMEOUT_USEC=needed)
            log.info("daemon.draining")
    log.info("daemon.stopped")


async def _run_unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`, or cancel it and return None when `asked` is set."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        return None if asked.is_set() else working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def _prepare(settings: Settings, store: Store, health: Health, *, migrate: bool) -> dict[str, int]:
    """Wait until the database can be used. Returns the keys of the sources' rows by name."""
    while True:
        try:
            async with store.connection() as connection:
                if migrate:
                    await migrations.keep_current(connection)
                await migrations.require_current(connection)
                await migrations.require_rights(connection)
            keys = await store.register_sources(settings.source_kinds)
            await set_source_objectives(store, settings.objectives(keys))
        except MigrationError as e:
            metrics.DATABASE_UP.set(1)
            problem = f"database: {e}"
        except DatabaseUnavailableError as e:
            metrics.DATABASE_UP.set(0)
            problem = f"database: {e}"
        else:
            metrics.DATABASE_UP.set(1)
            return keys
        systemd.notify(EXTEND_TIMEOUT_USEC=int(START_SECONDS * 1e6))
        if health.waiting_for != problem:
            log.warning("daemon.waiting", reason=problem)
            systemd.notify(STATUS=f"waiting: {problem}")
            health.waiting_for = problem
        await asyncio.sleep(WAIT_SECONDS)


@asynccontextmanager
async def _background() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Yield a function that starts tasks. They are cancelled at the end."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield lambda work: tasks.append(asyncio.create_task(work))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _ticking(
    settings: Settings,
    store: Store,
    health: Health,
    poller: Poller,
    job_lists: Sequence[JobList],
    sources: Sequence[ActiveSource],
    changes: DatabaseChanges,
    senders: Sequence[Sender],
    ticked: asyncio.TaskGroup,
    stop: Stop,
) -> Iterator[None]:
    """Run the loops: claims, lists, events, keys, pauses, findings, metrics, checks of the database, webhooks.

    Each is a task of `ticked`. At the end the tasks are cancelled but not awaited: they end while the polls drain.
    """
    with run_ticker() as ticker:
        interval, usual = min(1.0, settings.min_poll_seconds / 4), read_cadence(settings).unknown_source.prior
        webhook_names = [webhook.name for webhook in settings.webhooks]
        refresh = partial(
            database_metrics.refresh_until_read, store, health, list(settings.source_kinds), webhook_names
        )
        loops: list[tuple[asyncio.Event, float, Callable[[], Awaitable[object]]]] = [
            (poller.wake, interval, poller.tick),
            (asyncio.Event(), database_metrics.REFRESH_SECONDS, refresh),
            (asyncio.Event(), CHECK_SECONDS, changes.check),
            (asyncio.Event(), SEAL_SECONDS, changes.reopen_sealed_jobs),
            (asyncio.Event(), LEARN_SECONDS / 4, partial(learn, store, sources, usual, health)),
            (asyncio.Event(), EVALUATE_SECONDS / 3, partial(find, store, health)),
        ]
        interval = min(1.0, settings.job_list_seconds)
        loops += [(asyncio.Event(), interval, job_list.tick) for job_list in job_lists]
        model_lists = [ModelList(store, source, health) for source in sources if source.client.format.models]
        loops += [(asyncio.Event(), settings.job_list_seconds, model_list.tick) for model_list in model_lists]
        event_lists = open_event_lists(settings, store, sources, health)
        loops += [(asyncio.Event(), events.interval, events.tick) for events in event_lists]
        loops += [(asyncio.Event(), TICK_SECONDS, sender.tick) for sender in senders]
        for source in sources:
            loops.append((asyncio.Event(), RENEW_SECONDS, partial(renew_login, store, health, source)))
            loops.append((asyncio.Event(), RESUMPTION_SECONDS, partial(source.notice_resumption, store)))
        tasks = [ticked.create_task(repeat(ticker, *loop, stop)) for loop in loops]
        try:
            yield
        finally:
            stop.asked.set()
            for task in tasks:
                task.cancel()
