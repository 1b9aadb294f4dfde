"""One HTTP client for every provider shape. Its failures say what they mean for the poll, the job and the source.

Every read is bounded in bytes, pages and time, and nothing an answer says is repeated as it came.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from checkpointd import __version__
from checkpointd.domain.failure import ErrorClass, Failure, classify, error_object, http_date, retry_after
from checkpointd.provider.page import NotAListError, Page, Raw, read_page
from checkpointd.redaction import Secrets

PAGE_BYTES: Final = 8 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
PAGES: Final = 100
LISTING_BYTES: Final = 32 * 1024 * 1024
CONNECT_SECONDS: Final = 5.0
"""For a connection to come about, within the time for its request: who cannot be reached is told from who is slow."""
LONGEST_WAIT: Final = 5.0
"""Seconds that a poll waits for another try; whoever asks for more is asked again at the next poll."""


Turn = Callable[[float], Awaitable[None]]
"""Waits until a request may be made; the argument is the deadline of its listing, on the loop's clock."""


async def at_once(_: float) -> None:
    """Wait for nothing: there is no budget."""


class Pages(NamedTuple):
    """What a list gave: the items of each page that was read, why it broke off (None: it is whole), requests made."""

    items: list[Sequence[Raw]]
    failure: Failure | None
    requests: int


class Answer(NamedTuple):
    """What one request brought: why it failed (None: it did not), and the provider's time (None: it did not tell)."""

    failure: Failure | None
    date: datetime | None


class ApiError(Exception):
    """A request failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Limits(NamedTuple):
    """Page size in items, seconds for one request, seconds that the waits between tries start from."""

    page_size: int = 100
    request_timeout: float = 10.0
    backoff: float = 0.5


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open the one HTTP session of a process: no proxy or netrc of the environment, no cookies, no redirects later."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        trust_env=False,
    ) as opened:
        yield opened


class Client:
    """Reads the lists of one source."""

    def __init__(
        self, http: aiohttp.ClientSession, base_url: str, headers: Mapping[str, str], query: Mapping[str, str],
        limits: Limits, secrets: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Headers carry the key; `secrets` are taken out of whatever the provider says before it is repeated."""
        self._http = http
        self._base = URL(base_url.rstrip("/"))
        # Compressed answers cost more than they save, and identity leaves no room for bombs.
        ours = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"checkpointd/{__version__}"}
        self._headers = CIMultiDictProxy(CIMultiDict({**ours, **headers}))
        self._query = urlencode({**query, "limit": limits.page_size})
        self._limits = limits
        self._secrets = Secrets(secrets)

    async def list_checkpoints(self, job_id: str, deadline: float, turn: Turn = at_once) -> Pages:
        """List all checkpoints of a job, until `deadline` on the loop's clock. Never raises for what a provider does.

        Each request waits for its `turn`.

        What was read before a failure is returned with it. A cursor that got lost (its checkpoint was dropped while we
        paged) starts the listing again, twice at most; what was read before it counts, too.
        """
        path = _checkpoints_of(job_id)
        pages = await self._list(path, deadline, turn)
        for _ in range(2):
            if pages.failure is None or pages.failure.error_class is not ErrorClass.CURSOR_LOST:
                break
            again = await self._list(path, deadline, turn)
            pages = Pages([*pages.items, *again.items], again.failure, pages.requests + again.requests)
        return pages

    async def list_jobs(self, deadline: float, turn: Turn = at_once) -> AsyncGenerator[Sequence[Raw], None]:
        """Yield the pages of the job list, newest first as providers have it. Raises ApiError."""
        cursor, way = None, _Way(turn, 10 * PAGES)
        while True:
            page = await self._page(_JOBS, cursor, way, deadline)
            yield page.items
            cursor = way.cursor_after(page)
            if cursor is None:
                return

    async def probe(self, deadline: float, job_id: str | None = None) -> Answer:
        """Ask once for the job list, or for a job's checkpoints, without another try. Never raises for a provider."""
        url = self._url(_JOBS if job_id is None else _checkpoints_of(job_id), None)
        heard: list[str] = []
        failure = None
        try:
            self._read(await self._once(url, deadline, paging=False, heard=heard))
        except ApiError as e:
            failure = e.failure
        return Answer(failure, http_date(heard[0]) if heard else None)

    def holds_secret(self, json_text: bytes) -> bool:
        """Say whether the key stands in what a provider sent, encoded or not."""
        return self._secrets.stand_in(json_text)

    async def _list(self, path: str, deadline: float, turn: Turn) -> Pages:
        items: list[Sequence[Raw]] = []
        cursor, way = None, _Way(turn, PAGES, LISTING_BYTES)
        try:
            while True:
                page = await self._page(path, cursor, way, deadline)
                items.append(page.items)
                cursor = way.cursor_after(page)
                if cursor is None:
                    return Pages(items, None, way.requests)
        except ApiError as e:
            return Pages(items, e.failure, way.requests)

    def _url(self, path: str, after: str | None) -> URL:
        cursor = f"&after={quote(after, safe='')}" if after else ""
        base = self._base  # parsed once, and not at each request
        return URL.build(
            scheme=base.scheme, authority=base.raw_authority, path=base.raw_path.rstrip("/") + path,
            query_string=self._query + cursor, encoded=True,
        )  # fmt: skip

    async def _page(self, path: str, cursor: str | None, way: "_Way", deadline: float) -> Page:
        """Read the page after `cursor`, trying again where that can help and the deadline allows."""
        url = self._url(path, cursor)
        tries = 0
        while True:
            tries += 1
            await way.turn(deadline)
            way.requests += 1
            try:
                body = await self._once(url, deadline, paging=cursor is not None)
                way.bytes += len(body)
                return self._read(body)
            except ApiError as e:
                jitter = random.uniform(0.5, 1)  # noqa: S311  # no secret
                wait = max(jitter * self._limits.backoff * 2**tries, e.failure.retry_after or 0)
                longest = min(deadline - asyncio.get_running_loop().time(), LONGEST_WAIT)
                if tries >= e.failure.tries or wait > longest:
                    raise
            await asyncio.sleep(wait)

    async def _once(self, url: URL, deadline: float, *, paging: bool, heard: list[str] | None = None) -> bytes:
        within = max(min(deadline - asyncio.get_running_loop().time(), self._limits.request_timeout), 0.0)
        try:
            async with (
                asyncio.timeout(within),
                self._http.get(url, headers=self._headers, allow_redirects=False) as response,
            ):
                if heard is not None:
                    heard += response.headers.getall("Date", [])
                if response.status != HTTPStatus.OK:
                    body = await _body(response, ERROR_BYTES)
                    raise ApiError(self._unhappy(response.status, response.headers, body, paging=paging))
                if not _is_json(response.headers.get("Content-Type", "")):
                    kind = response.headers.get("Content-Type", "none")
                    raise ApiError(Failure(ErrorClass.CONTENT_TYPE, self._clean(f"not JSON, but content type {kind}")))
                return await _body(response, PAGE_BYTES)
        except aiohttp.ConnectionTimeoutError:
            failure = Failure(ErrorClass.NETWORK, f"no connection within {CONNECT_SECONDS:g} s")
        except TimeoutError:
            failure = Failure(ErrorClass.TIMEOUT, f"no whole answer within {round(within, 2):g} s")
        except (aiohttp.ClientError, OSError, ValueError) as e:
            # Never their text: some of them show the request, and with it the key.
            reason = e.strerror if isinstance(e, OSError) and e.strerror else type(e).__name__
            what = "no connection" if isinstance(e, aiohttp.ClientConnectorError) else "the connection broke off"
            failure = Failure(ErrorClass.NETWORK, self._clean(f"{what}: {reason}"))
        raise ApiError(failure)  # out here, where it has no context: that would be what shows the request

    def _read(self, body: bytes) -> Page:
        try:
            return read_page(body)
        except NotAListError as e:
            failure = Failure(ErrorClass(e.error_class), self._clean(str(e)))
        raise ApiError(failure)

    def _unhappy(self, status: int, headers: Mapping[str, str], body: bytes, *, paging: bool) -> Failure:
        """Say what a status other than 200 means."""
        error = error_object(body)
        kind = classify(status, error, paging=paging)
        said = "" if status == HTTPStatus.UNAUTHORIZED else error.get("message")  # which shows a part of the key
        code = error.get("code") or error.get("type")
        words = [f"HTTP {status}", *(str(w) for w in (code, said) if isinstance(w, str) and w)]
        hopeless = headers.get("x-should-retry", "").lower() == "false"
        return Failure(kind, self._clean(" ".join(words)), retry_after(headers), hopeless, status)

    def _clean(self, text: str) -> str:
        """Make what a provider said fit to be repeated: one short line without anything like a key."""
        text = self._secrets.blot_beginnings(text[:1000])  # its time grows with the square of the length
        return "".join(c if c.isprintable() else " " for c in text)[:200]


class _Way:
    """The way through a list, which may be endless: requests and bytes so far, and the cursors that were met."""

    def __init__(self, turn: Turn, most_pages: int, most_bytes: float = math.inf) -> None:
        self.turn = turn
        self.requests = 0
        self.bytes = 0
        self._most_pages = most_pages
        self._most_bytes = most_bytes
        self._cursors: set[str] = set()

    def cursor_after(self, page: Page) -> str | None:
        """Return the cursor of the next page, None after the last one. Raises ApiError where the way leads nowhere."""
        if not page.has_more:
            return None
        cursor = page.last_id
        if not page.items:
            failure = Failure(ErrorClass.EMPTY_PAGE, "an empty page that says that more follow")
        elif cursor is None:
            failure = Failure(ErrorClass.BAD_HAS_MORE, "more pages follow, but the last item has no id")
        elif cursor in self._cursors:
            failure = Failure(ErrorClass.CURSOR_REPEATED, "a page that was read before: `after` is ignored")
        elif len(self._cursors) + 1 >= self._most_pages:
            failure = Failure(ErrorClass.TOO_MANY_PAGES, f"more than {self._most_pages} pages")
        elif self.bytes > self._most_bytes:
            failure = Failure(ErrorClass.TOO_LARGE, f"a list of more than {self._most_bytes} bytes")
        else:
            self._cursors.add(cursor)
            return cursor
        raise ApiError(failure)


_JOBS: Final = "/fine_tuning/jobs"


def _checkpoints_of(job_id: str) -> str:
    return f"{_JOBS}/{quote(job_id, safe='')}/checkpoints"


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body of at most `most` bytes."""
    chunks = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > most:
            response.close()
            if response.status != HTTPStatus.OK:
                break
            raise ApiError(Failure(ErrorClass.TOO_LARGE, f"a page of more than {most} bytes"))
        chunks.append(chunk)
    return b"".join(chunks)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
