"""One bounded GET request: its URL, its limits, and its failures as `ApiError`.

The body is limited in bytes and the request in time. No text of a response is repeated unchanged: it may contain the
key.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from checkpointd import __version__
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.provider import heavy_work, responses
from checkpointd.provider.body import to_json
from checkpointd.provider.formats.format import ListFormat
from checkpointd.provider.interim import InterimResponsesError, limit_interim_responses
from checkpointd.provider.memory import ListMemory
from checkpointd.provider.page_size import smaller_page_size
from checkpointd.provider.proxy import Proxy, connection_failure, proxy_failure
from checkpointd.provider.words import Words, words_of
from checkpointd.redaction import Secrets

Session = aiohttp.ClientSession

PAGE_BYTES: Final = 8 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
"""The most bytes that are read of a page, and of a response with another status than 200."""

CONNECT_SECONDS: Final = 5.0
"""Connect timeout. Shorter than the request timeout, so that unreachable and slow are reported apart."""

_LONGEST_MESSAGE: Final = 200


class Limits(NamedTuple):
    """Page size in items; timeout of one request and the first delay before a retry, both in seconds."""

    page_size: int = 100
    request_timeout: float = 10.0
    backoff: float = 0.5


class Response(NamedTuple):
    """A response with status 200: its body, its headers (an empty text if absent), and the page size of its request.

    If the body is JSON, it is in UTF-8 and not compressed.
    """

    body: bytes
    date: str
    content_type: str
    page_size: int


class ApiError(Exception):
    """A request failed. `date` is the Date header of the response, or "" without one.

    `page_size` is the page size that the provider accepts, if it says that the requested one is too large.
    """

    def __init__(self, failure: Failure, date: str = "", page_size: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.date = date
        self.page_size = page_size


@asynccontextmanager
async def open_session() -> AsyncIterator[Session]:
    """Open the HTTP session of this process. It uses no proxy or netrc of the environment, and keeps no cookies."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15, ttl_dns_cache=60)
    limit_interim_responses(connector)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        trust_env=False,
        auto_decompress=False,  # provider/body.py does it, because labels can be wrong
    ) as opened:
        yield opened


class Endpoint:
    """The API of one source below its base URL."""

    def __init__(
        self, http: Session, base_url: str, headers: Mapping[str, str], query: Mapping[str, str], limits: Limits,
        secrets: Sequence[str], proxy: Proxy | None = None,
    ) -> None:  # fmt: skip
        """`headers` include the key; `secrets` are removed from every text that the provider or a proxy sends."""
        self._http = http
        self._base = URL(base_url.rstrip("/"))
        # identity: decompression would cost more than it saves, and a response could be a decompression bomb.
        own = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"checkpointd/{__version__}"}
        self._proxy = proxy
        # A request with http is sent to the proxy itself, so it contains the proxy's credentials. With https they are
        # only in the request for a tunnel, because the provider gets all headers of the request within it.
        to_proxy = proxy.headers if proxy and self._base.scheme == "http" else {}
        self._headers = CIMultiDictProxy(CIMultiDict({**own, **headers, **to_proxy}))
        self._query = "".join(f"{urlencode({name: value})}&" for name, value in query.items() if name != "limit")
        self.page_size = limits.page_size
        self._request_timeout = limits.request_timeout
        self._secrets = Secrets(secrets)

    def _url(self, path: str, query: str) -> URL:
        base = self._base  # parsed once, and not at each request
        return URL.build(
            scheme=base.scheme, authority=base.raw_authority, path=base.raw_path.rstrip("/") + path,
            query_string=self._query + query if query else self._query.rstrip("&"), encoded=True,
        )  # fmt: skip

    async def get(
        self,
        list_format: ListFormat,
        cursor: str | None,
        deadline: float,
        memory: ListMemory,
        most_bytes: int = PAGE_BYTES,
    ) -> Response:
        """Request a page, until `deadline` on the event loop's clock. The cursor of the first page is None.

        Raises ApiError unless the response has status 200. Redirects are not followed, because that would send the key
        to another host.
        """
        date = content_type = ""
        page_size = self.page_size  # a concurrent listing can reduce it meanwhile
        url = self._url(list_format.path, list_format.query(cursor, page_size))
        result: tuple[Failure, Words] | bytes
        seconds = max(min(deadline - asyncio.get_running_loop().time(), self._request_timeout), 0.0)
        proxy = self._proxy
        try:
            async with (
                asyncio.timeout(seconds) as limit,
                self._http.get(
                    url, headers=self._headers, allow_redirects=False, proxy=proxy and proxy.url,
                    proxy_headers=proxy and proxy.headers,
                ) as response,
            ):  # fmt: skip
                date, content_type = response.headers.get("Date", ""), response.headers.get("Content-Type", "")
                body = _BodyReader(response, memory, limit, deadline)
                result = await _read(body, most_bytes, paging=cursor is not None, proxied=proxy is not None)
        except aiohttp.ConnectionTimeoutError:
            to = " to the proxy" if proxy else ""
            result = Failure(ErrorClass.UNREACHABLE, f"no connection{to} within {CONNECT_SECONDS:g} s"), Words("none")
        except TimeoutError:
            result = Failure(ErrorClass.TIMEOUT, f"no complete response within {round(seconds, 2):g} s"), Words("none")
        except InterimResponsesError as e:
            result = Failure(ErrorClass.NETWORK, str(e)), Words("none")
        except (aiohttp.ClientError, OSError, ValueError) as e:
            result = connection_failure(e, proxy, self._base.host or ""), Words("none")
        # Raised outside of the except blocks. In them the error would get a context that could show the request.
        if isinstance(result, bytes):
            return Response(result, date, content_type, page_size)
        failure, words = result
        raise ApiError(self.clean(failure), date, smaller_page_size(words, page_size, failure.status))

    def clean(self, failure: Failure) -> Failure:
        """Return a failure whose message can be repeated: one line of at most 200 characters, without secrets."""
        # The text is cut first, because the time of the search grows with the square of its length.
        may_quote = failure.status == HTTPStatus.UNAUTHORIZED
        text = self._secrets.redact_truncated(failure.message[:1000], may_quote=may_quote)
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return replace(failure, message=line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…")

    def holds_secret(self, json_text: bytes) -> bool:
        """Return whether a text that the provider sent contains the key, encoded or not."""
        return self._secrets.occur_in(json_text)


class _BodyReader:
    """Reads the body of a response within the memory of its list."""

    def __init__(
        self, response: aiohttp.ClientResponse, memory: ListMemory, limit: asyncio.Timeout, deadline: float
    ) -> None:
        """`limit` is the timeout of the request. The time in which this process waits for memory does not count."""
        self.response = response
        self._memory = memory
        self._limit = limit
        self._deadline = deadline

    async def read(self, most: int) -> tuple[bytes, bool]:
        """Return the body, or the part of it that was read when it exceeded `most` bytes; and whether it is whole."""
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.response.content.readany():
            size += len(chunk)
            if size > most:
                self.response.close()
                return b"".join(chunks), False
            chunks.append(chunk)
            if self._memory.add(len(chunk)):
                await self._wait()
        return b"".join(chunks), True

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        left = (self._limit.when() or self._deadline) - loop.time()
        self._limit.reschedule(None)
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._memory.wait()
        except TimeoutError:
            message = "it was not read to its end, because other large lists took the memory"
            raise ApiError(Failure(ErrorClass.INTERNAL, message)) from None
        self._limit.reschedule(min(loop.time() + left, self._deadline))


async def _read(
    body: _BodyReader, most_bytes: int, *, paging: bool, proxied: bool
) -> tuple[Failure, Words] | bytes:  # fmt: skip
    """Return the body of a response, or why it cannot be used."""
    response = body.response
    encoding, content_type = (response.headers.get(name, "") for name in ("Content-Encoding", "Content-Type"))
    is_page = response.status in {200, 203}  # 203 is a 200 that a proxy in between has changed
    limit = most_bytes if is_page else ERROR_BYTES
    received, is_whole = await body.read(limit)
    if is_page and not is_whole:
        return Failure(ErrorClass.TOO_LARGE, f"a page of more than {limit} bytes"), Words("none")
    if len(received) <= heavy_work.LARGE_BYTES:
        text = to_json(received, encoding, content_type, limit)
    else:
        text = await heavy_work.run(to_json, received, encoding, content_type, limit)
    if is_page:
        return (text, Words("none")) if isinstance(text, Failure) else text
    words = words_of(b"" if isinstance(text, Failure) else text)
    reason = response.reason or ""
    if proxied and response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return proxy_failure(response.status, reason), words
    return responses.failure_of(response.status, reason, response.headers, words, paging=paging), words
