"""Read the lists of one source: all pages, with retries, within limits of pages, bytes and time."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import is_job_id
from checkpointd.domain.listing import RawListing
from checkpointd.domain.reading import RawItem, text
from checkpointd.provider import heavy_work
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.openai import OPENAI
from checkpointd.provider.http import PAGE_BYTES, ApiError, Endpoint, Limits, Response, Session
from checkpointd.provider.memory import LARGE_LISTS, ListMemory
from checkpointd.provider.page import KNOWN_PAGE, NotAListError, Page, Requested, read_page
from checkpointd.provider.page_size import smaller_page_size
from checkpointd.provider.pagination import Pagination
from checkpointd.provider.proxy import Proxy
from checkpointd.provider.responses import http_date, is_json

PAGES: Final = 100
JOB_LIST_PAGES: Final = 10_000
EVENT_LIST_PAGES: Final = 10_000
"""The most pages of a checkpoint list, of a job list, and of an event list."""
LISTING_BYTES: Final = 8 * 1024 * 1024
LISTING_ITEMS: Final = 20_000
"""The most bytes and items of a checkpoint list. Half as many checkpoints of a job are stored at most, and 8 MiB are
800 bytes for each of those."""
CURSOR_RESTARTS: Final = 2
"""How many times a listing starts again, at most, because its cursor was lost."""
LONGEST_WAIT: Final = 5.0
"""Seconds. If a retry would wait longer, it is left to the next poll."""

SMALLER_PAGES: Final = 8
"""How many times one listing reduces the page size, at most."""

_NO_JOB_LIST: Final = Failure(ErrorClass.MISSING, "this provider has no job list", status=404)
_NO_EVENTS: Final = Failure(ErrorClass.MISSING, "this provider has no event list", status=404)
_NO_MODELS: Final = Failure(ErrorClass.MISSING, "this provider has no list of models", status=404)
_UNFIT_ID: Final = Failure(ErrorClass.BAD_REQUEST, "its id cannot be part of an address: untrack the job")

Wait = Callable[[float], Awaitable[None]]
"""Waits until the rate limit permits a request, or until a deadline on the event loop's clock."""


ReportPageSize = Callable[[int, str], None]
"""Called with a smaller page size, and the words of the provider that demand it, without secrets."""


async def no_wait(_: float) -> None:
    """Return at once, for a source without a rate limit."""


class ListPage(NamedTuple):
    """The items of a page of a job list or event list, and the cursor of the next page, or None after the last."""

    items: Sequence[RawItem]
    cursor: str | None
    can_resume: bool = False
    """True if there is a next page, and its cursor can be stored: a column can hold it, and it contains no secret."""


class ProbeResult(NamedTuple):
    """Why a probe failed, or None; and the time of the provider's clock, or None if the response had no Date header."""

    failure: Failure | None
    date: datetime | None


class Client:
    """Reads the lists of one source."""

    def __init__(
        self, http: Session, base_url: str, headers: Mapping[str, str], query: Mapping[str, str], limits: Limits,
        secrets: Sequence[str] = (), proxy: Proxy | None = None, report_page_size: ReportPageSize | None = None,
        wire_format: Format = OPENAI,
    ) -> None:  # fmt: skip
        """`headers` include the key; `secrets` are removed from every text that the provider sends."""
        self.format = wire_format
        self._endpoint = Endpoint(http, base_url, headers, query, limits, secrets, proxy)
        self._room = asyncio.Semaphore(LARGE_LISTS)
        self._report_page_size = report_page_size
        self._backoff = limits.backoff
        self.request_timeout = limits.request_timeout
        self.holds_secret = self._endpoint.holds_secret

    def memory(self) -> ListMemory:
        """Return the memory of a checkpoint list that is about to be read."""
        return ListMemory(self._room)

    async def list_checkpoints(
        self, job_id: str, deadline: float, wait: Wait = no_wait, *, retry_first: bool = True,
        known: bytes | None = None, cut_off: asyncio.Timeout | None = None, memory: ListMemory | None = None,
    ) -> RawListing:  # fmt: skip
        """List all checkpoints of a job, until `deadline` on the event loop's clock. Never raises ApiError.

        What was read before a failure is returned with it. If the cursor is lost (its checkpoint left the list between
        two pages), the listing starts again; the pages that were read before still count. Without `retry_first`, the
        first page is requested once, whatever its failure. If the only page has the digest `known`, it is not decoded:
        see RawListing. `cut_off` ends the listing when its time is set. The caller frees `memory` when it has read the
        listing.
        """
        if not is_job_id(job_id):  # version 0.1.0 discovered any id, such as `..`, which would change the path
            return RawListing([], _UNFIT_ID, 0)
        list_format = self.format.checkpoints.of_job(job_id)
        started = asyncio.get_running_loop().time()
        memory = memory or ListMemory()
        pages: list[Page] = []
        passes: list[Pagination] = []
        lost: Failure | None = None
        try:
            async with cut_off or asyncio.timeout(None):
                for _ in range(1 + CURSOR_RESTARTS):
                    passes.append(Pagination(list_format, PAGES, memory, LISTING_BYTES, LISTING_ITEMS, known=known))
                    now = passes[-1]
                    lost = await self._list(deadline, wait, pages, now, retry_first=retry_first)
                    if lost is None or lost.error_class is not ErrorClass.CURSOR_LOST:
                        break
                    known = None  # the pages that were read count, so the next ones are not the whole listing
        except TimeoutError:
            seconds = asyncio.get_running_loop().time() - started
            message = f"no complete response within {seconds:.2g} s, while other jobs were read"
            lost = Failure(ErrorClass.TIMEOUT, message)
        requests = sum(one.requests for one in passes)
        if pages and pages[0] is KNOWN_PAGE:
            return RawListing([], None, requests, memory.size, is_known=True)
        items, bodies = [page.items for page in pages], [page.body for page in pages]
        return RawListing(items, lost, requests, memory.size, bodies, reader=self.format.reader)

    async def list_jobs(
        self, deadline: float, wait: Wait = no_wait, *, cursor: str | None = None, pages: int = 0
    ) -> AsyncGenerator[ListPage, None]:
        """Yield the pages of the job list in the provider's order, which is usually newest first. Raises ApiError.

        It starts after `cursor`, or with None at the top; `pages` were read before.
        """
        if self.format.jobs is None:
            raise ApiError(_NO_JOB_LIST)
        pagination = Pagination(self.format.jobs, JOB_LIST_PAGES, ListMemory(), cursor=cursor, pages=pages)
        async for page in self._pages(cursor, pagination, deadline, wait):
            yield page

    async def list_events(
        self, job_id: str, deadline: float, wait: Wait = no_wait, *, cursor: str | None = None, pages: int = 0
    ) -> AsyncGenerator[ListPage, None]:
        """Yield the pages of a job's event list in the provider's order, as list_jobs() does. Raises ApiError."""
        if not is_job_id(job_id):
            raise ApiError(_UNFIT_ID)
        if self.format.events is None:
            raise ApiError(_NO_EVENTS)
        list_format = self.format.events.of_job(job_id)
        pagination = Pagination(list_format, EVENT_LIST_PAGES, ListMemory(), cursor=cursor, pages=pages)
        async for page in self._pages(cursor, pagination, deadline, wait):
            yield page

    async def list_models(self, deadline: float, wait: Wait = no_wait) -> Sequence[RawItem]:
        """Return the items of the list of models, which is requested once, whatever its failure. Raises ApiError."""
        if self.format.models is None:
            raise ApiError(_NO_MODELS)
        page = await self._page(None, Pagination(self.format.models, 1, ListMemory()), deadline, wait, retry=False)
        if page.failure:
            raise ApiError(page.failure)
        return page.items

    async def _pages(
        self, cursor: str | None, pagination: Pagination, deadline: float, wait: Wait
    ) -> AsyncGenerator[ListPage, None]:
        while True:
            page = await self._page(cursor, pagination, deadline, wait)
            try:
                cursor = pagination.cursor_after(page)
            except ApiError:
                yield ListPage(page.items, None)
                raise
            can_store = cursor is not None and text(cursor) == cursor and not self.holds_secret(cursor.encode())
            yield ListPage(page.items, cursor, can_store)
            if cursor is None:
                return

    async def probe(self, deadline: float, job_id: str | None = None) -> ProbeResult:
        """Request one page of the job list, or of a job's checkpoint list, without retries. Never raises ApiError."""
        list_format = self.format.jobs if job_id is None else self.format.checkpoints.of_job(job_id)
        if list_format is None:
            return ProbeResult(_NO_JOB_LIST, None)
        try:
            response = await self._endpoint.get(list_format, None, deadline, ListMemory())
        except ApiError as e:
            return ProbeResult(e.failure, http_date(e.date))
        try:
            failure = (await self._read_page(list_format, None, response)).failure
        except ApiError as e:
            failure = e.failure
        return ProbeResult(failure, http_date(response.date))

    async def _list(
        self, deadline: float, wait: Wait, pages: list[Page], pagination: Pagination, *, retry_first: bool
    ) -> Failure | None:
        """Read one list and add its pages to `pages`. Returns why it is incomplete, or None."""
        cursor = None
        try:
            while True:
                retry = retry_first or bool(pages)
                page = await self._page(cursor, pagination, deadline, wait, retry=retry)
                pages.append(page)
                cursor = pagination.cursor_after(page)
                if cursor is None:
                    return None
        except ApiError as e:
            return e.failure

    async def _page(
        self, cursor: str | None, pagination: Pagination, deadline: float, wait: Wait, *, retry: bool = True
    ) -> Page:
        """Read the page after `cursor`. With `retry`, tries again if the failure may pass and the deadline allows it.

        If the provider says that the page size is too large, a smaller one is used for this and all later requests. A
        page with a failure is returned if no try returns one without.
        """
        tries, size = 0, pagination.memory.size
        read: Page | None = None
        while True:
            tries += 1
            await wait(deadline)
            pagination.requests += 1
            pagination.memory.size = size  # without the pages of earlier tries
            try:
                read = await self._request(cursor, pagination, deadline)
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
            if not retry or tries >= failure.tries or delay > longest:
                if read is None:
                    raise ApiError(failure)
                return read._replace(failure=failure)
            await asyncio.sleep(delay)

    async def _request(self, cursor: str | None, pagination: Pagination, deadline: float) -> Page:
        list_format = pagination.list_format
        try:
            response = await self._endpoint.get(list_format, cursor, deadline, pagination.memory, pagination.most_bytes)
        except ApiError as e:
            if e.failure.error_class is ErrorClass.TOO_LARGE and pagination.most_bytes < PAGE_BYTES:
                failure = replace(e.failure, message=f"a list of more than {LISTING_BYTES} bytes")
                raise ApiError(failure, e.date) from None
            raise
        if pagination.knows(response.body):
            return KNOWN_PAGE
        return await self._read_page(list_format, cursor, response)

    def _reduces_page_size(self, error: ApiError, pagination: Pagination) -> bool:
        """Return whether the page size was too large and a smaller one is used now."""
        if error.page_size is None or pagination.smaller_pages >= SMALLER_PAGES:
            return False
        pagination.smaller_pages += 1
        if error.page_size < self._endpoint.page_size:  # otherwise a concurrent listing has reduced it already
            self._endpoint.page_size = error.page_size
            if self._report_page_size:
                self._report_page_size(error.page_size, error.failure.message)
        return True

    async def _read_page(self, list_format: ListFormat, cursor: str | None, response: Response) -> Page:
        body = response.body
        try:
            is_large = len(body) > heavy_work.LARGE_BYTES
            requested = Requested(list_format, response.page_size, cursor)
            page = await heavy_work.run(read_page, body, requested) if is_large else read_page(body, requested)
        except NotAListError as e:
            failure = Failure(e.error_class, str(e), has_words=e.words.text != "")
            page_size = smaller_page_size(e.words, response.page_size, None)
        else:
            failed = page.failure and self._endpoint.clean(page.failure)
            return page._replace(body=msgspec.Raw(body), failure=failed)  # Raw, because its repr shows no secret
        if failure.error_class in {ErrorClass.NOT_JSON, ErrorClass.HTML} and not is_json(response.content_type):
            content_type = response.content_type or "none"
            failure = Failure(ErrorClass.CONTENT_TYPE, f"content type {content_type}: {failure.message}")
        raise ApiError(self._endpoint.clean(failure), response.date, page_size)
