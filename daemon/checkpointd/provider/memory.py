"""What the lists of a source take of the memory of the process: only a few large ones at the same time."""

import asyncio
from typing import Final

LARGE_LISTS: Final = 2
"""How many large lists of a source are in memory at the same time. Others wait."""

SMALL_BYTES: Final = 256 * 1024
"""A larger list is large. The checkpoint list of a usual job has a few kilobytes."""


class ListMemory:
    """What one list takes, until free(). A list that has become large waits until there is room for it."""

    def __init__(self, room: asyncio.Semaphore | None = None) -> None:
        """`room` has LARGE_LISTS permits. None is for a list that needs not wait, such as a job list."""
        self.size = 0
        """The bytes of its pages."""
        self.items = 0
        """The number of their items."""
        self._room = room
        self._is_large = False

    def add(self, size: int) -> bool:
        """Add bytes. Returns whether to wait() before adding more."""
        self.size += size
        return self.size > SMALL_BYTES and self._room is not None and not self._is_large

    async def wait(self) -> None:
        """Wait for room."""
        if self._room:
            await self._room.acquire()
            self._is_large = True

    def free(self) -> None:
        """Make room for others: the list has been read, and its bytes are not needed any more."""
        if self._room and self._is_large:
            self._is_large = False
            self._room.release()
