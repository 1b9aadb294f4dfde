"""Run the work of a command on an event loop that does not wait at its end for name lookups, which may hang."""

import asyncio
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Threads(ThreadPoolExecutor):
    """Threads for name lookups. A thread ends when the resolver returns; the event loop does not wait for it."""

    def shutdown(self, *_: object, **__: object) -> None:
        """Cancel lookups that have not started, and do not wait for the others."""
        super().shutdown(wait=False, cancel_futures=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command, and return its result."""

    async def with_threads() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        return await work

    return asyncio.run(with_threads())


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command, and return its result. SIGTERM cancels it, as Ctrl-C does."""

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    return run(interruptible())
