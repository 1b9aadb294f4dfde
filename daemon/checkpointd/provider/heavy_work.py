"""Run work on large answers of a provider in a thread, so that it does not block the event loop.

There is one such thread. So however many large answers arrive, one of them at a time takes the memory that reading it
needs.
"""

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

LARGE_BYTES: Final = 64 * 1024
"""Work on more bytes than this is for the thread. On less it takes milliseconds, whatever the bytes are."""

LARGE_ITEMS: Final = 5_000
"""So many items take tens of megabytes."""

P = ParamSpec("P")
T = TypeVar("T")

_thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy-work")


async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of pure `work` that the thread does."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*args, **kwargs))


async def give_back_memory(items: int) -> None:
    """Give free memory back to the operating system, if many items took it and the C library can (glibc)."""
    if items >= LARGE_ITEMS and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        await run(trim, 0)
