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
from urllib.parse import quote, urlencode

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from checkpointd import __version__
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.provider import responses
from checkpointd.redaction import Secrets

Session = aiohttp.ClientSession

PAGE_BYTES: Final = 8 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
"""The most bytes that are read of a page, and of a response with another status than 200."""

CONNECT_SECONDS: Final = 5.0
"""Connect timeout. Shorter than the request timeout, so that unreachable and slow are reported apart."""


class Limits(NamedTuple):
    """Page size in items; timeout of one request and the first delay before a retry, both in seconds."""

    page_size: int = 100
    request_timeout: float = 10.0
    backoff: float = 0.5


class Response(NamedTuple):
    """The body of a response with status 200, and its Date header; an empty text if there is none."""

    body: bytes
    date: str


class ApiError(Exception):
    """A request failed. `date` is the Date header of the response; an empty text if there is none."""

    def __init__(self, failure: Failure, date: str = "") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.date = date


@asynccontextmanager
async def open_session() -> AsyncIterator[Session]:
    """Open the HTTP session of this process. It uses no proxy or netrc of the environment, and keeps no cookies."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        trust_env=False,
    ) as opened:
        yield opened


class Endpoint:
    """The API of one source below its base URL."""

    def __init__(
        self, http: Session, base_url: str, headers: Mapping[str, str], query: Mapping[str, str], limits: Limits,
        secrets: Sequence[str],
    ) -> None:  # fmt: skip
        """`headers` include the key; `secrets` are removed from every text that the provider sends."""
        self._http = http
        self._base = URL(base_url.rstrip("/"))
        # identity: decompression would cost more than it saves, and a response could be a decompression bomb.
        own = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"checkpointd/{__version__}"}
        self._headers = CIMultiDictProxy(CIMultiDict({**own, **headers}))
        self._query = urlencode({**query, "limit": limits.page_size})
        self._request_timeout = limits.request_timeout
        self._secrets = Secrets(secrets)

    def url(self, path: str, after: str | None) -> URL:
        """Return the URL of a page; `after` is the cursor, or None for the first page."""
        cursor = f"&after={quote(after, safe='')}" if after else ""
        base = self._base  # parsed once, and not at each request
        return URL.build(
            scheme=base.scheme, authority=base.raw_authority, path=base.raw_path.rstrip("/") + path,
            query_string=self._query + cursor, encoded=True,
        )  # fmt: skip

    async def get(self, url: URL, deadline: float, *, paging: bool) -> Response:
        """Make one request, until `deadline` on the event loop's clock; `paging` is true if a cursor is sent.

        Raises ApiError unless the response has status 200 and is JSON. Redirects are not followed, because that would
        send the key to another host.
        """
        body, date = b"", ""
        seconds = max(min(deadline - asyncio.get_running_loop().time(), self._request_timeout), 0.0)
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.get(url, headers=self._headers, allow_redirects=False) as response,
            ):
                date = response.headers.get("Date", "")
                failure, body = await _read(response, paging=paging)
        except aiohttp.ConnectionTimeoutError:
            failure = Failure(ErrorClass.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s")
        except TimeoutError:
            failure = Failure(ErrorClass.TIMEOUT, f"no complete response within {round(seconds, 2):g} s")
        except (aiohttp.ClientError, OSError, ValueError) as e:
            # The error's own text is not used: some errors show the request, which contains the key.
            reason = e.strerror if isinstance(e, OSError) and e.strerror else type(e).__name__
            if isinstance(e, aiohttp.ClientConnectorError):
                failure = Failure(ErrorClass.UNREACHABLE, f"no connection: {reason}")
            else:
                failure = Failure(ErrorClass.NETWORK, f"the connection was lost: {reason}")
        # Raised outside of the except blocks. In them the error would get a context that could show the request.
        if failure is not None:
            raise ApiError(self.clean(failure), date)
        return Response(body, date)

    def clean(self, failure: Failure) -> Failure:
        """Return a failure whose message can be repeated: one line of at most 200 characters, without secrets."""
        # The text is cut first, because the time of the search grows with the square of its length.
        text = self._secrets.redact_truncated(failure.message[:1000])
        return replace(failure, message="".join(c if c.isprintable() else " " for c in text)[:200])

    def holds_secret(self, json_text: bytes) -> bool:
        """Return whether a text that the provider sent contains the key, encoded or not."""
        return self._secrets.occur_in(json_text)


async def _read(response: aiohttp.ClientResponse, *, paging: bool) -> tuple[Failure | None, bytes]:
    """Return why a response cannot be used, or None; and its body."""
    if response.status != HTTPStatus.OK:
        body, _ = await _read_body(response, ERROR_BYTES)
        return responses.failure_of(response.status, response.headers, body, paging=paging), body
    content_type = response.headers.get("Content-Type", "none")
    if not responses.is_json(content_type):
        return Failure(ErrorClass.CONTENT_TYPE, f"not JSON, but content type {content_type}"), b""
    body, is_whole = await _read_body(response, PAGE_BYTES)
    too_large = Failure(ErrorClass.TOO_LARGE, f"a page of more than {PAGE_BYTES} bytes")
    return None if is_whole else too_large, body


async def _read_body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return the body, or the part of it that was read when it exceeded `limit` bytes; and whether it is whole."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()
            return b"".join(chunks), False
        chunks.append(chunk)
    return b"".join(chunks), True
