"""Waits for a state that another process reaches without sending an event."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """Run `check` until it raises no AssertionError, and return its result.

    After so many seconds its last error is raised.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await check()
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(0.05)  # nothing reports when the state changes
