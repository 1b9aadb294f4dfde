"""Read the lists of one source: all pages, with retries, within limits of pages, bytes and time."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import is_job_id
from checkpointd.domain.listing import RawListing
from checkpointd.domain.reading import RawItem
from checkpointd.provider.http import ApiError, Endpoint, Limits, Response, Session
from checkpointd.provider.page import NotAListError, Page, read_page
from checkpointd.provider.page_size import smaller_page_size
from checkpointd.provider.proxy import Proxy
from checkpointd.provider.responses import http_date, is_json

PAGES: Final = 100
"""The most pages of a checkpoint list; a job list may have ten times as many."""
LISTING_BYTES: Final = 32 * 1024 * 1024
CURSOR_RESTARTS: Final = 2
"""How many times a listing starts again, at most, because its cursor was lost."""
LONGEST_WAIT: Final = 5.0
"""Seconds. If a retry would wait longer, it is left to the next poll."""

SMALLER_PAGES: Final = 8
"""How many times one listing reduces the page size, at most."""

JOBS: Final = "/fine_tuning/jobs"

Wait = Callable[[float], Awaitable[None]]
"""Waits until the rate limit permits a request, or until a deadline on the event loop's clock."""


ReportPageSize = Callable[[int, str], None]
"""Called with a smaller page size, and the words of the provider that demand it, without secrets."""


async def no_wait(_: float) -> None:
    """Return at once, for a source without a rate limit."""


class ProbeResult(NamedTuple):
    """Why a probe failed, or None; and the time of the provider's clock, or None if the response had no Date header."""

    failure: Failure | None
    date: datetime | None


class Client:
    """Reads the lists of one source."""

    def __init__(
        self, http: Session, base_url: str, headers: Mapping[str, str], query: Mapping[str, str], limits: Limits,
        secrets: Sequence[str] = (), proxy: Proxy | None = None, report_page_size: ReportPageSize | None = None,
    ) -> None:  # fmt: skip
        """`headers` include the key; `secrets` are removed from every text that the provider sends."""
        self._endpoint = Endpoint(http, base_url, headers, query, limits, secrets, proxy)
        self._report_page_size = report_page_size
        self._backoff = limits.backoff
        self.holds_secret = self._endpoint.holds_secret

    async def list_checkpoints(self, job_id: str, deadline: float, wait: Wait = no_wait) -> RawListing:
        """List all checkpoints of a job, until `deadline` on the event loop's clock. Never raises ApiError.

        What was read before a failure is returned with it. If the cursor is lost (its checkpoint left the list between
        two pages), the listing starts again; the pages that were read before still count.
        """
        if not is_job_id(job_id):  # version 0.1.0 discovered any id, such as `..`, which would change the path
            failure = Failure(ErrorClass.BAD_REQUEST, "its id cannot be part of an address: untrack the job")
            return RawListing([], failure, 0)
        path = _checkpoints_of(job_id)
        listing = await self._list(path, deadline, wait)
        for _ in range(CURSOR_RESTARTS):
            if listing.failure is None or listing.failure.error_class is not ErrorClass.CURSOR_LOST:
                break
            again = await self._list(path, deadline, wait)
            listing = RawListing([*listing.pages, *again.pages], again.failure, listing.requests + again.requests)
        return listing

    async def list_jobs(self, deadline: float, wait: Wait = no_wait) -> AsyncGenerator[Sequence[RawItem], None]:
        """Yield the pages of the job list in the provider's order, which is newest first. Raises ApiError."""
        cursor, pagination = None, Pagination(10 * PAGES)
        while True:
            page = await self._page(JOBS, cursor, pagination, deadline, wait)
            yield page.items
            cursor = pagination.cursor_after(page)
            if cursor is None:
                return

    async def probe(self, deadline: float, job_id: str | None = None) -> ProbeResult:
        """Request one page of the job list, or of a job's checkpoint list, without retries. Never raises ApiError."""
        path = JOBS if job_id is None else _checkpoints_of(job_id)
        try:
            response = await self._endpoint.get(path, None, deadline)
        except ApiError as e:
            return ProbeResult(e.failure, http_date(e.date))
        try:
            failure = self._read_page(response).failure
        except ApiError as e:
            failure = e.failure
        return ProbeResult(failure, http_date(response.date))

    async def _list(self, path: str, deadline: float, wait: Wait) -> RawListing:
        pages: list[Sequence[RawItem]] = []
        cursor, pagination = None, Pagination(PAGES, LISTING_BYTES)
        try:
            while True:
                page = await self._page(path, cursor, pagination, deadline, wait)
                pages.append(page.items)
                cursor = pagination.cursor_after(page)
                if cursor is None:
                    return RawListing(pages, None, pagination.requests)
        except ApiError as e:
            return RawListing(pages, e.failure, pagination.requests)

    async def _page(
        self, path: str, cursor: str | None, pagination: "Pagination", deadline: float, wait: Wait
    ) -> Page:  # fmt: skip
        """Read the page after `cursor`. Tries again if the failure may pass and the deadline allows it.

        If the provider says that the page size is too large, a smaller one is used for this and all later requests. A
        page with a failure is returned if no try returns one without.
        """
        tries = 0
        read: Page | None = None
        while True:
            tries += 1
            await wait(deadline)
            pagination.requests += 1
            try:
                read = await self._request(path, cursor, pagination, deadline)
                if read.failure is None:
                    return read
                failure = read.failure
            except ApiError as e:
                if self._reduces_page_size(e, pagination):
                    tries = 0
                    continue
                failure = e.failure
            jitter = random.uniform(0.5, 1)  # noqa: S311  # not a secret
            delay = max(jitter * self._backoff * 2**tries, failure.retry_after or 0)
            longest = min(deadline - asyncio.get_running_loop().time(), LONGEST_WAIT)
            if tries >= failure.tries or delay > longest:
                if read is None:
                    raise ApiError(failure)
                return read._replace(failure=failure)
            await asyncio.sleep(delay)

    async def _request(self, path: str, cursor: str | None, pagination: "Pagination", deadline: float) -> Page:
        response = await self._endpoint.get(path, cursor, deadline)
        pagination.bytes += len(response.body)
        return self._read_page(response)

    def _reduces_page_size(self, error: ApiError, pagination: "Pagination") -> bool:
        """Return whether the page size was too large and a smaller one is used now."""
        if error.page_size is None or pagination.smaller_pages >= SMALLER_PAGES:
            return False
        pagination.smaller_pages += 1
        if error.page_size < self._endpoint.page_size:  # otherwise a concurrent listing has reduced it already
            self._endpoint.page_size = error.page_size
            if self._report_page_size:
                self._report_page_size(error.page_size, error.failure.message)
        return True

    def _read_page(self, response: Response) -> Page:
        try:
            page = read_page(response.body)
        except NotAListError as e:
            failure = Failure(e.error_class, str(e), has_words=e.words.text != "")
            page_size = smaller_page_size(e.words, response.page_size, None)
        else:
            return page._replace(failure=self._endpoint.clean(page.failure)) if page.failure else page
        if failure.error_class in {ErrorClass.NOT_JSON, ErrorClass.HTML} and not is_json(response.content_type):
            content_type = response.content_type or "none"
            failure = Failure(ErrorClass.CONTENT_TYPE, f"content type {content_type}: {failure.message}")
        raise ApiError(self._endpoint.clean(failure), response.date, page_size)


class Pagination:
    """The state of reading one list, which may be endless: requests, bytes and smaller pages so far, and cursors."""

    def __init__(self, most_pages: int, most_bytes: float = math.inf) -> None:
        self.requests = 0
        self.bytes = 0
        self.smaller_pages = 0
        self._most_pages = most_pages
        self._most_bytes = most_bytes
        self._cursors: set[str] = set()

    def cursor_after(self, page: Page) -> str | None:
        """Return the cursor of the next page, or None after the last. Raises ApiError if no next page can be read."""
        if page.failure:
            raise ApiError(page.failure)
        if not page.has_more:
            return None
        cursor = page.last_id
        if not page.items:
            failure = Failure(ErrorClass.EMPTY_PAGE, "an empty page with has_more true")
        elif cursor is None:
            failure = Failure(ErrorClass.BAD_HAS_MORE, "has_more is true, but the last item has no id")
        elif cursor in self._cursors:
            failure = Failure(ErrorClass.CURSOR_REPEATED, "a page was returned twice: the provider ignores `after`")
        elif len(self._cursors) + 1 >= self._most_pages:
            failure = Failure(ErrorClass.TOO_MANY_PAGES, f"more than {self._most_pages} pages")
        elif self.bytes > self._most_bytes:
            failure = Failure(ErrorClass.TOO_LARGE, f"a list of more than {self._most_bytes} bytes")
        else:
            self._cursors.add(cursor)
            return cursor
        raise ApiError(failure)


def _checkpoints_of(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}/checkpoints"
