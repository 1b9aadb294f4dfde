"""The metronome: APScheduler rings bells at fixed intervals. It only rings; who hears it does the work.

APScheduler counts by the wall clock: set back, it falls silent, set forward, it makes up for every missed ring. So a
trigger of ours looks only ahead, and whoever waits for a bell waits no longer than some intervals by the loop's clock.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

PATIENCE: Final = 3
"""Intervals without a ring before the listener helps itself."""


class _LookingAhead(IntervalTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """An interval trigger that never has missed rings to make up for."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        fire_time: datetime | None = super().get_next_fire_time(previous_fire_time, now)
        return fire_time if previous_fire_time is None or fire_time is None else max(fire_time, now + self.interval / 2)


class Metronome:
    """Rings bells. Made by metronome()."""

    def __init__(self, scheduler: Any) -> None:  # noqa: ANN401  # APScheduler ships no types
        self._scheduler = scheduler

    def ring(self, bell: asyncio.Event, seconds: float) -> None:
        """Ring `bell` now and every so many seconds."""
        bell.set()
        # A coroutine, so that it runs on the loop: a plain function would be called in a thread.
        self._scheduler.add_job(
            _ring, _LookingAhead(seconds=seconds, timezone=UTC), args=[bell], id=str(id(bell)), replace_existing=True
        )

    async def wait(self, bell: asyncio.Event, seconds: float) -> None:
        """Wait for a ring of a bell that rings every so many seconds; set it going again if it fell silent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(PATIENCE * seconds, 1.0)):  # Python 3.11's wait_for may lose a cancellation
                await bell.wait()
        if not bell.is_set():
            self.ring(bell, seconds)
        bell.clear()


async def _ring(bell: asyncio.Event) -> None:
    bell.set()


@contextmanager
def metronome() -> Iterator[Metronome]:
    """Run a metronome."""
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    scheduler.start()
    try:
        yield Metronome(scheduler)
    finally:
        scheduler.shutdown(wait=False)
