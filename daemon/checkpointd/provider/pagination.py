"""Where the reading of one list is: its pages, cursors and bytes so far, and whether it may go on."""

import math

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.listing import digest
from checkpointd.provider import heavy_work
from checkpointd.provider.formats.format import ListFormat
from checkpointd.provider.http import PAGE_BYTES, ApiError
from checkpointd.provider.memory import ListMemory
from checkpointd.provider.page import Page


class Pagination:
    """The state of reading one list, which may be endless: requests and smaller pages so far, memory, and cursors."""

    def __init__(
        self, list_format: ListFormat, most_pages: int, memory: ListMemory, most_bytes: float = math.inf,
        most_items: float = math.inf, *, cursor: str | None = None, pages: int = 0, known: bytes | None = None,
    ) -> None:  # fmt: skip
        """`cursor` is where the reading starts, or None at the top; `pages` were read before.

        `known` is the digest of the last complete listing, or None if everything is to be decoded.
        """
        self.list_format = list_format
        self.requests = 0
        self.memory = memory
        self.smaller_pages = 0
        self._most_pages = most_pages
        self._most_bytes = most_bytes
        self._most_items = most_items
        self._pages = pages
        self._cursors: set[str] = {cursor} if cursor else set()
        self._known = known

    def knows(self, body: bytes) -> bool:
        """Return whether a page is the whole of the last complete listing, byte for byte."""
        is_first = self._pages == 0 and len(body) <= heavy_work.LARGE_BYTES
        return self._known is not None and is_first and digest([body]) == self._known

    @property
    def most_bytes(self) -> int:
        """The most bytes of the next page."""
        left = self._most_bytes - self.memory.size
        return PAGE_BYTES if left >= PAGE_BYTES else int(left)

    def cursor_after(self, page: Page) -> str | None:
        """Return the cursor of the next page, or None after the last. Raises ApiError if no next page can be read."""
        if page.failure:
            raise ApiError(page.failure)
        self.memory.items += len(page.items)
        if self.memory.items > self._most_items:
            raise ApiError(Failure(ErrorClass.TOO_MANY_ITEMS, f"a list of more than {self._most_items} items"))
        if not page.has_more:
            return None
        cursor = page.last_id
        self._pages += 1
        if not page.items:
            failure = Failure(ErrorClass.EMPTY_PAGE, "an empty page with has_more true")
        elif cursor is None:
            failure = Failure(ErrorClass.BAD_HAS_MORE, "a page may follow, but the last item has no usable id")
        elif cursor in self._cursors:
            failure = Failure(ErrorClass.CURSOR_REPEATED, "a page was returned twice: the provider ignores `after`")
        elif self._pages >= self._most_pages:
            failure = Failure(ErrorClass.TOO_MANY_PAGES, f"more than {self._most_pages} pages")
        else:
            self._cursors.add(cursor)
            return cursor
        raise ApiError(failure)
