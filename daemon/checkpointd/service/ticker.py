"""The ticker: APScheduler sets events at fixed intervals. The work is done by the tasks that wait for these events.

APScheduler uses the wall clock. If that clock is set back, it fires no events for as long; if it is set forward, it
makes up for every missed run. Therefore the trigger here skips missed runs, and a task waits for a few intervals at
most by the event loop's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from checkpointd.service.signals import Stop
from checkpointd.telemetry.logs import log

PATIENCE: Final = 3
"""The number of intervals without a tick after which wait() returns by itself."""


class AheadOnlyTrigger(IntervalTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """An interval trigger that never makes up for missed runs."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the next time after `now`, or the first time of the trigger."""
        fire_time: datetime | None = super().get_next_fire_time(previous_fire_time, now)
        return fire_time if previous_fire_time is None or fire_time is None else max(fire_time, now + self.interval / 2)


class Ticker:
    """Sets events at intervals. Made by run_ticker()."""

    def __init__(self, scheduler: Any) -> None:  # noqa: ANN401  # APScheduler ships no types
        self.scheduler = scheduler

    def start(self, event: asyncio.Event, seconds: float) -> None:
        """Set `event` now, and then at an interval of `seconds`."""
        event.set()
        trigger = AheadOnlyTrigger(seconds=seconds, timezone=UTC)
        # _set is a coroutine function, because APScheduler would call a plain function in a thread.
        self.scheduler.add_job(_set, trigger, args=[event], id=str(id(event)), replace_existing=True)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the next tick of an event that was started with this interval. If none comes, start it again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(PATIENCE * seconds, 1.0)):  # Python 3.11's wait_for may lose a cancellation
                await event.wait()
        if not event.is_set():
            self.start(event, seconds)
        event.clear()


async def _set(event: asyncio.Event) -> None:
    event.set()


@contextmanager
def run_ticker() -> Iterator[Ticker]:
    """Run a ticker until the end of the block."""
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    scheduler.start()
    try:
        yield Ticker(scheduler)
    finally:
        scheduler.shutdown(wait=False)


async def repeat(
    ticker: Ticker, event: asyncio.Event, seconds: float, work: Callable[[], Awaitable[object]], stop: Stop
) -> None:
    """Run `work` at each tick, and whenever `event` is set in between, until `stop`."""
    ticker.start(event, seconds)
    try:
        while not stop.asked.is_set():  # cancelled work may return normally: then this condition ends the loop
            await ticker.wait(event, seconds)
            await work()
    except Exception:  # noqa: BLE001  # an error of checkpointd itself stops the daemon, but with a drain
        log.exception("daemon.crashed")
        stop.crashed = True
        stop.asked.set()
