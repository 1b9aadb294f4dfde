"""Run the work of a command on an event loop that waits, at its end, for nothing that may hang."""

import asyncio
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Threads(ThreadPoolExecutor):
    """Threads for name lookups. They end when the resolver returns, and the event loop does not wait for that."""

    def shutdown(self, *_: object, **__: object) -> None:
        """Wait for no thread."""
        super().shutdown(wait=False, cancel_futures=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command."""

    async def with_threads() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        return await work

    return asyncio.run(with_threads())


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command. SIGTERM cancels it, as Ctrl-C does."""

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    return run(interruptible())
