"""The life of the process: it opens what it needs, rings, watches for the end, and drains."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from checkpointd.polling.job_list import Discovery
from checkpointd.polling.poller import Poller
from checkpointd.polling.setup import Keyed, open_services, pollers
from checkpointd.postgres import migrations
from checkpointd.postgres.connection import UNAVAILABLE, Connect
from checkpointd.postgres.errors import explain
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider import client as api
from checkpointd.service import systemd
from checkpointd.service.ticker import Metronome, metronome
from checkpointd.service.watchdog import watching
from checkpointd.settings.model import Settings
from checkpointd.telemetry import database_metrics as gauges
from checkpointd.telemetry import logs as observe
from checkpointd.telemetry.logs import log
from checkpointd.web import server as web

WAIT_SECONDS: Final = 2.0
"""How often a database that is away, or whose schema is old, is looked at again."""

START_SECONDS: Final = 90.0
"""What the next look may take, before systemd kills: it counts on nobody who hangs at the start."""

SPARE_SECONDS: Final = 10.0
"""What a stop may take beyond the time to drain, before systemd kills: to close what is open on a busy machine."""

PAGES_POOL_SIZE: Final = 2
"""Connections for the status page, apart from those of the polls: however many look, no poll waits."""

T = TypeVar("T")


@dataclass
class Stop:
    """How a process is told to end."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    urge: Callable[[], object] = lambda: None
    """What to do where it was asked before, and still takes its time."""
    crashed: bool = False
    """A fault of ours asked for it: the log says which."""


async def run(settings: Settings, connect: Connect, keyed: Keyed, *, migrate: bool, stop: Stop) -> None:
    """Run the daemon until `stop`. With `migrate` the database is ours alone and is kept up to date."""
    problems = ["starting"]

    def all_problems() -> list[str]:
        return problems or observe.problems()

    observe.READY.set_function(lambda: not all_problems())
    observe.expect(source.name for source in settings.sources)
    async with (
        open_store(connect, PAGES_POOL_SIZE) as pages,
        web.serve(settings.http_host, settings.http_port, all_problems, pages),
        open_store(connect) as store,
        api.session() as http,
    ):
        keys = await _unless(stop.asked, _prepare(settings, store, problems, migrate=migrate))
        if keys is None:
            return
        services = open_services(settings, keys, http, keyed)
        async with (
            watching(store, lambda: None if stop.asked.is_set() else poller.stuck(), stop.asked),
            asyncio.TaskGroup() as rings,
            pollers(settings, store, services) as (poller, discoveries),
        ):
            stop.urge = poller.cut_short
            problems.clear()
            log.info("daemon.ready", sources=[service.name for service in services])
            systemd.notify(READY=1)
            with _ringing(settings, store, poller, discoveries, rings, stop):
                await stop.asked.wait()
            # A time to drain that is longer than the unit's time to stop is given; a shorter one changes nothing.
            needed = int((settings.drain_seconds + SPARE_SECONDS) * 1e6)
            systemd.notify(STOPPING=1, STATUS="draining", EXTEND_TIMEOUT_USEC=needed)
            log.info("daemon.draining")
    log.info("daemon.stopped")


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what comes of some work; if asked for meanwhile, cut it short and return None."""
    working, hearing = asyncio.create_task(work), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([working, hearing], return_when=asyncio.FIRST_COMPLETED)
        return None if asked.is_set() else working.result()
    finally:
        working.cancel()
        hearing.cancel()
        await asyncio.gather(working, hearing, return_exceptions=True)


async def _prepare(settings: Settings, store: Store, problems: list[str], *, migrate: bool) -> dict[str, int]:
    """Return the keys of the sources, once the database can be worked with; what it waits for is logged."""
    while True:
        try:
            async with store.connection() as connection:
                if migrate:
                    await migrations.keep_current(connection)
                await migrations.require_current(connection)
                await migrations.require_rights(connection)
            keys = await store.register_sources({s.name: s.kind for s in settings.sources})
        except migrations.MigrationError as e:
            observe.DATABASE_UP.set(1)
            problem = f"database: {e}"
        except UNAVAILABLE as e:
            observe.DATABASE_UP.set(0)
            problem = f"database: {explain(e)}"
        else:
            observe.DATABASE_UP.set(1)
            return keys
        systemd.notify(EXTEND_TIMEOUT_USEC=int(START_SECONDS * 1e6))
        if problems != [problem]:
            log.warning("daemon.waiting", reason=problem)
            systemd.notify(STATUS=f"waiting: {problem}")
            problems[:] = [problem]
        await asyncio.sleep(WAIT_SECONDS)


@contextmanager
def _ringing(
    settings: Settings,
    store: Store,
    poller: Poller,
    discoveries: Sequence[Discovery],
    rings: asyncio.TaskGroup,
    stop: Stop,
) -> Iterator[None]:
    """Tick, list and count, in tasks of `rings`. At the end nobody waits for them: they end while the polls drain."""
    with metronome() as beat:
        often = min(1.0, settings.min_poll_seconds / 4)
        works: list[tuple[asyncio.Event, float, Callable[[], Awaitable[object]]]]
        works = [(poller.bell, often, poller.tick), (asyncio.Event(), gauges.GAP_SECONDS, partial(gauges.renew, store))]
        often = min(1.0, settings.job_list_seconds)
        works += [(asyncio.Event(), often, discovery.tick) for discovery in discoveries]
        tasks = [rings.create_task(_follow(beat, *work, stop)) for work in works]
        try:
            yield
        finally:
            stop.asked.set()
            for task in tasks:
                task.cancel()


async def _follow(
    beat: Metronome, bell: asyncio.Event, seconds: float, work: Callable[[], Awaitable[object]], stop: Stop
) -> None:
    beat.ring(bell, seconds)
    try:
        while not stop.asked.is_set():  # work that is cut short may say so by an error of its own
            await beat.wait(bell, seconds)
            await work()
    except Exception:  # noqa: BLE001  # a bug of ours ends the daemon, but in order
        log.exception("daemon.crashed")
        stop.crashed = True
        stop.asked.set()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask to stop; every further one urges."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    stop = Stop()
    if task is not None:
        stop.urge = task.cancel

    def heard() -> None:
        if stop.asked.is_set():
            stop.urge()
        stop.asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
