"""Run work on large answers of a provider in a thread, so that it does not block the event loop.

There is one such thread. So however many large answers arrive, one of them at a time takes the memory that reading it
needs.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

LARGE_BYTES: Final = 64 * 1024
"""Work on more bytes than this is for the thread. On less it takes milliseconds, whatever the bytes are."""

P = ParamSpec("P")
T = TypeVar("T")

_thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy-work")


async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of pure `work` that the thread does."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*args, **kwargs))
