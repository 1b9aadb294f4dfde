"""Request the next page of a job list while one is saved, so that a pass takes no longer than its requests."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from checkpointd.provider.client import ListPage

Pages = AsyncGenerator[ListPage, None]


async def read_ahead(pages: Pages, is_used_up: Callable[[], bool]) -> Pages:
    """Yield pages until the end, or until a page that can be resumed when the reading `is_used_up`.

    A request for a page after that is not made. A failure is raised after the page before it was yielded.
    """
    async with aclosing(pages):
        page = await anext(pages, None)
        while page is not None:
            if is_used_up() and page.can_resume:
                yield page
                return
            requested = asyncio.ensure_future(anext(pages, None))
            try:
                yield page
                page = await requested
            finally:
                requested.cancel()
                await asyncio.gather(requested, return_exceptions=True)
