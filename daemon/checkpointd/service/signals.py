"""Requests to stop: SIGTERM, SIGINT, or an error of checkpointd itself."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stop:
    """A request to stop the process: `asked` is set when it is made."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: Callable[[], object] = lambda: None
    """Called for each further signal after the first."""
    crashed: bool = False
    """True if an error of checkpointd itself is the reason. The log has the details."""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Request a stop at SIGTERM or SIGINT. Each further signal calls `hurry`."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    stop = Stop()
    if task is not None:
        stop.hurry = task.cancel

    def on_signal() -> None:
        if stop.asked.is_set():
            stop.hurry()
        stop.asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
