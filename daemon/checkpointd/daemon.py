"""The life of the process: it opens what it needs, rings, watches for the end, and drains."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from checkpointd import api, gauges, migrations, observe, systemd, web
from checkpointd.discovery import Discovery
from checkpointd.metronome import Metronome, metronome
from checkpointd.observe import log
from checkpointd.poller import Poller
from checkpointd.reasons import explain
from checkpointd.serving import Keyed, open_services, pollers
from checkpointd.settings import Settings
from checkpointd.store import UNAVAILABLE, Connect, Store, open_store
from checkpointd.watch import watching

WAIT_SECONDS: Final = 2.0
"""How often a database that is away, or whose schema is old, is looked at again."""


PAGES_POOL_SIZE: Final = 2
"""Connections for the status page, apart from those of the polls: however many look, no poll waits."""

TICK_SECONDS: Final = 1.0
"""How long the last tick may take at a stop."""


@dataclass
class Stop:
    """How a process is told to end."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    urge: Callable[[], None] = lambda: None
    """What to do where it was asked before, and still takes its time."""


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
        while (keys := await _prepare(settings, store, problems, migrate=migrate)) is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.asked.wait(), WAIT_SECONDS)
            if stop.asked.is_set():
                return
        services = open_services(settings, keys, http, keyed)
        async with (
            watching(store, lambda: None if stop.asked.is_set() else poller.stuck(), stop.asked),
            pollers(settings, store, services) as (poller, discoveries),
        ):
            stop.urge = poller.cut_short
            problems.clear()
            log.info("daemon.ready", sources=[service.name for service in services])
            systemd.notify(READY=1)
            await _ring(settings, store, poller, discoveries, stop)
            systemd.notify(STOPPING=1, STATUS="draining")
            log.info("daemon.draining")
    log.info("daemon.stopped")


async def _prepare(settings: Settings, store: Store, problems: list[str], *, migrate: bool) -> dict[str, int] | None:
    """Return the keys of the sources once the database can be worked with; until then None, with a reason logged."""
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
    if problems != [problem]:
        log.warning("daemon.waiting", reason=problem)
        systemd.notify(STATUS=f"waiting: {problem}")
        problems[:] = [problem]
    return None


async def _ring(settings: Settings, store: Store, poller: Poller, discoveries: Sequence[Discovery], stop: Stop) -> None:
    """Tick, list and count until told to stop."""
    asked = stop.asked
    with metronome() as beat:
        async with asyncio.TaskGroup() as rings:
            seconds = min(1.0, settings.min_poll_seconds / 4)
            ticking = rings.create_task(_follow(beat, poller.bell, seconds, poller.tick, asked))
            seconds = min(1.0, settings.job_list_seconds)
            follows = [_follow(beat, asyncio.Event(), seconds, discovery.tick, asked) for discovery in discoveries]
            renew = partial(gauges.renew, store)
            follows.append(_follow(beat, asyncio.Event(), gauges.GAP_SECONDS, renew, asked))
            others = [rings.create_task(follow) for follow in follows]
            await asked.wait()
            for task in others:
                task.cancel()
            # A tick is cut short only if it hangs: a claim that is cut off may have claimed, and nobody knows what.
            poller.bell.set()
            await asyncio.wait([ticking], timeout=TICK_SECONDS)
            ticking.cancel()


async def _follow(
    beat: Metronome, bell: asyncio.Event, seconds: float, work: Callable[[], Awaitable[object]], asked: asyncio.Event
) -> None:
    beat.ring(bell, seconds)
    while True:
        await beat.wait(bell, seconds)
        if asked.is_set():
            return
        await work()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask to stop; every further one urges."""
    loop = asyncio.get_running_loop()
    stop = Stop()

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
