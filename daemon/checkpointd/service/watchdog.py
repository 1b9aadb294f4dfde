"""What systemd is told of a running daemon: WATCHDOG=1 as long as its work goes on, and in STATUS= how it fares.

A database or a provider that is away ends no work: ticks and polls then fail in time, one after the other.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from checkpointd.postgres import queries
from checkpointd.postgres.connection import UNAVAILABLE
from checkpointd.postgres.errors import explain
from checkpointd.postgres.store import Store
from checkpointd.service import systemd
from checkpointd.telemetry import logs as observe
from checkpointd.telemetry.logs import log

SECONDS: Final = 10.0
"""How often systemd is told, or more often where its watchdog asks for it."""

LAG_SECONDS: Final = 5.0
"""A loop that comes so much too late has been blocked."""

Stuck = Callable[[], str | None]
"""Says what does not go on any more; None: everything does."""


@asynccontextmanager
async def watching(store: Store, stuck: Stuck, draining: asyncio.Event) -> AsyncIterator[None]:
    """Keep systemd informed. Once `draining`, the end has a limit of its own: STATUS is left alone."""
    tasks = [asyncio.create_task(_feed(stuck, systemd.watchdog_seconds()))]
    if systemd.listens():
        tasks.append(asyncio.create_task(_tell(store, draining)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(stuck: Stuck, limit: float | None) -> None:
    """Feed the watchdog, which lets pass `limit` seconds (None: there is none), while nothing is stuck."""
    loop = asyncio.get_running_loop()
    seconds = min(limit / 2, SECONDS) if limit else SECONDS
    told = None
    while True:
        since = loop.time()
        await asyncio.sleep(seconds)
        lag = loop.time() - since - seconds
        reason = f"the event loop stood still for {lag:.0f} s" if lag > LAG_SECONDS else stuck()
        if reason is None:
            systemd.notify(WATCHDOG=1)
        elif reason != told:
            log.error("daemon.stuck", reason=reason)
        told = reason


def _troubles() -> list[str]:
    return observe.problems() + observe.troubled_sources()


async def _tell(store: Store, draining: asyncio.Event) -> None:
    """Tell how it fares, again and again, and where troubles come or go within a second."""
    while not draining.is_set():
        status = await _status(store)
        if not draining.is_set():
            systemd.notify(STATUS=status)
        known = _troubles()
        for _ in range(int(SECONDS)):
            await asyncio.sleep(1)
            if known != _troubles():
                break


async def _status(store: Store) -> str:
    try:
        (row,) = await store.fetch(queries.COUNT_TRACKED_JOBS)
    except UNAVAILABLE as e:
        return f"waiting: database: {explain(e)}"
    if troubles := observe.problems():
        return f"waiting: {'; '.join(troubles)}"
    age = "" if row["last_poll_seconds"] is None else f", last poll {row['last_poll_seconds']:.0f} s ago"
    counts = f"polling: {row['tracked']} tracked, {row['due']} due, {row['failing']} failing{age}"
    return "; ".join([counts, *observe.troubled_sources()])
