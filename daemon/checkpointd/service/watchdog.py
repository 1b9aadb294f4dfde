"""Report the state of the daemon to systemd: WATCHDOG=1 while its work goes on, and its status as a line in STATUS=.

An unreachable database or provider does not stop the work: claims and polls then fail, one after the other, each within
its timeout.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from checkpointd.postgres import overview
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.service import systemd
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

REPORT_SECONDS: Final = 10.0
"""The interval of reports to systemd. It is shorter if the time of the watchdog requires that."""

LAG_SECONDS: Final = 5.0
"""If a sleep ends this much later than it should, the event loop was blocked."""

Stuck = Callable[[], str | None]
"""Returns what is stuck, or None."""


async def feed_watchdog(stuck: Stuck) -> None:
    """Send WATCHDOG=1 at least twice within the time of systemd's watchdog, as long as nothing is stuck."""
    loop = asyncio.get_running_loop()
    limit = systemd.watchdog_seconds()
    seconds = min(limit / 2, REPORT_SECONDS) if limit else REPORT_SECONDS
    logged = None
    while True:
        since = loop.time()
        await asyncio.sleep(seconds)
        lag = loop.time() - since - seconds
        reason = f"the event loop was blocked for {lag:.0f} s" if lag > LAG_SECONDS else stuck()
        if reason is None:
            systemd.notify(WATCHDOG=1)
        elif reason != logged:
            log.error("daemon.stuck", reason=reason)
        logged = reason


async def report_status(store: Store, health: Health, draining: asyncio.Event) -> None:
    """Send STATUS= at intervals, and within a second of a new problem or a recovery, until `draining` is set."""
    if not systemd.listens():
        return
    while not draining.is_set():
        status = await status_line(store, health)
        if not draining.is_set():
            systemd.notify(STATUS=status)
        known = _problems(health)
        for _ in range(int(REPORT_SECONDS)):
            await asyncio.sleep(1)
            if known != _problems(health):
                break


def _problems(health: Health) -> list[str]:
    return health.problems() + health.source_problems()


async def status_line(store: Store, health: Health) -> str:
    """Return the state of the daemon in one line."""
    try:
        counts = await overview.count_tracked_jobs(store)
    except DatabaseUnavailableError as e:
        return f"waiting: database: {e}"
    if problems := health.problems():
        return f"waiting: {'; '.join(problems)}"
    age = "" if counts["last_poll_seconds"] is None else f", last poll {counts['last_poll_seconds']:.0f} s ago"
    polling = f"polling: {counts['tracked']} tracked, {counts['due']} due, {counts['failing']} failing{age}"
    return "; ".join([polling, *health.source_problems()])
