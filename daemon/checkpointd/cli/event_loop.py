"""The event loop of a process: it does a verb's work, and waits at its end for nothing that may hang."""

import asyncio
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Threads(ThreadPoolExecutor):
    """Threads for name lookups, which end when the resolver does, and which no loop waits for when it closes."""

    def shutdown(self, *_: object, **__: object) -> None:
        """Wait for none."""
        super().shutdown(wait=False, cancel_futures=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do a verb's work."""

    async def led() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        return await work

    return asyncio.run(led())


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Do a verb's work. SIGTERM interrupts it as Ctrl-C does: what it has begun is ended in order."""

    async def interruptible() -> T:
        doing = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, doing.cancel)
        return await doing

    return run(interruptible())
