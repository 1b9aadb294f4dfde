"""Requests are bounded in bytes and time, reuse connections, and send only what the settings name."""

import asyncio
import gzip
import re
import socket
import time
import tracemalloc
import zlib
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.listing import RawListing
from checkpointd.provider.http import PAGE_BYTES
from checkpointd.provider.proxy import Proxy
from checkpointd.settings.source import Source
from support.lists import GOOD, ITEMS, KEY, LAST_PAGE, ListCheckpoints, failure_class, http_200, ids, message, silence
from support.provider import JOB, Answer, Provider, error, page, paged, raw

MIB = 1024 * 1024


# Bounded in bytes


async def peak_of(listing: Awaitable[RawListing]) -> tuple[RawListing, int]:
    """Return a listing, and the largest memory that was allocated during it, in bytes."""
    tracemalloc.start()
    try:
        return await listing, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("status", "expected", "most"), [(200, ErrorClass.TOO_LARGE, PAGE_BYTES), (404, ErrorClass.GATEWAY, 64 * 1024)]
)
async def test_an_endless_body_is_not_read(
    provider: Provider, list_checkpoints: ListCheckpoints, status: int, expected: ErrorClass, most: int
) -> None:
    """Reading stops at the limit of a page or, much earlier, of an error, and the connection is closed."""
    sent = 0
    closed = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * MIB)
                sent += MIB
        except ConnectionError:
            closed.set()
        return response

    provider.checkpoints[JOB] = flood
    listing, peak = await peak_of(list_checkpoints())
    await asyncio.wait_for(closed.wait(), 60)
    assert (expected, 1, []) == (failure_class(listing), listing.requests, listing.pages)
    assert sent < most + 16 * MIB, "the rest fits into the buffers of both sockets"
    assert peak < most + 12 * MIB


@pytest.mark.parametrize("place", ["provider", "proxy"])
async def test_endless_interim_responses(list_checkpoints: ListCheckpoints, place: str) -> None:
    """A server or proxy that sends `100 Continue` without end costs one short attempt, and no processor time."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = Proxy(url) if place == "proxy" else None
        started = time.process_time()
        listing = await list_checkpoints(url="https://localhost" if proxy else url, proxy=proxy, request_timeout=10)
        assert time.process_time() - started < 1
    assert ErrorClass.NETWORK == failure_class(listing)
    assert "more than 16 interim responses (HTTP 1xx)" == message(listing)


async def test_a_few_interim_responses(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """The response after a few interim ones is used, at each request of a connection."""
    provider.checkpoints[JOB] = raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 16 + http_200(GOOD))
    assert ids(await list_checkpoints()) == ids(await list_checkpoints()) != []


async def test_a_decompression_bomb(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """Of 256 MiB, compressed into 256 KiB, no more is decompressed than the limit of a page."""
    packer = zlib.compressobj(wbits=31)
    first, block = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = first + 255 * block  # after a full flush, equal blocks are equal bytes
    provider.checkpoints[JOB] = raw(http_200(bomb, b"Content-Encoding: gzip"))
    listing, peak = await peak_of(list_checkpoints())
    assert (ErrorClass.TOO_LARGE, 1) == (failure_class(listing), listing.requests)
    assert peak < PAGE_BYTES + 12 * MIB


# Bounded in time


async def drip(request: web.Request) -> web.StreamResponse:
    """Send one byte of a body every 10 ms, without end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)  # the pace of the body


@pytest.mark.parametrize("answer", [silence, drip])
async def test_a_slow_answer_ends_at_the_timeout(
    provider: Provider, list_checkpoints: ListCheckpoints, answer: Answer
) -> None:
    """An answer that never starts, or never ends, fails after one request timeout: the next poll is its retry."""
    provider.checkpoints[JOB] = answer
    started = time.monotonic()
    listing = await list_checkpoints(request_timeout=0.1)
    assert (ErrorClass.TIMEOUT, 1) == (failure_class(listing), listing.requests)
    assert 0.1 <= time.monotonic() - started < 30


async def test_the_deadline_caps_the_timeout(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A request ends at the deadline of its poll, before its own timeout, and its message has the time that it had."""
    provider.checkpoints[JOB] = [page(ITEMS[:1], has_more=True), silence]
    started = time.monotonic()
    listing = await list_checkpoints(seconds=1, request_timeout=60)
    assert (ErrorClass.TIMEOUT, 2, 1) == (failure_class(listing), listing.requests, len(ids(listing)))
    within = re.fullmatch(r"no complete response within ([\d.]+) s", message(listing))
    assert within
    assert 0 < float(within[1]) <= 1
    assert time.monotonic() - started < 30


async def test_refused_connection(list_checkpoints: ListCheckpoints) -> None:
    """Without a connection the provider is unreachable, after two tries."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        listing = await list_checkpoints(url=f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert (ErrorClass.UNREACHABLE, [], 2) == (failure_class(listing), listing.pages, listing.requests)


async def test_a_connection_is_reused(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """Three listings use one connection."""
    provider.checkpoints[JOB] = LAST_PAGE
    for _ in range(3):
        await list_checkpoints()
    assert 1 == len({request.transport for request in provider.requests})


async def test_a_closed_connection_is_not_a_failure(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A server may close idle connections between polls without a failure."""
    provider.checkpoints[JOB] = [LAST_PAGE, raw(b""), LAST_PAGE]
    assert [None, None] == [(await list_checkpoints()).failure for _ in range(2)]


# What is sent


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(provider: Provider, list_checkpoints: ListCheckpoints, status: int) -> None:
    """The target of a redirect gets no request, and so no key."""
    async with Provider() as other:
        provider.checkpoints[JOB] = error(status, Location=f"{other.url}/fine_tuning/jobs/{JOB}/checkpoints")
        assert ErrorClass.REDIRECT is failure_class(await list_checkpoints())
        assert [] == other.requests


SOURCES: list[tuple[dict[str, Any], dict[str, str | None]]] = [
    (
        {"kind": "openai", "organization": "org-1", "project": "proj_1"},
        {"Authorization": f"Bearer {KEY}", "OpenAI-Organization": "org-1", "OpenAI-Project": "proj_1"},
    ),
    (
        {"kind": "compatible", "headers": {"X-Gateway": "g"}},
        {"Authorization": f"Bearer {KEY}", "X-Gateway": "g", "OpenAI-Organization": None, "OpenAI-Project": None},
    ),
    ({"kind": "azure", "query": {"api-version": "2024-10-21"}}, {"api-key": KEY, "Authorization": None}),
]


@pytest.mark.parametrize(("fields", "expected"), SOURCES)
async def test_headers_of_each_kind(
    provider: Provider,
    list_checkpoints: ListCheckpoints,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    expected: dict[str, str | None],
) -> None:
    """Each kind of source gets the key in its own header, and the headers and query of the settings."""
    monkeypatch.setenv("THE_KEY", KEY)
    source = Source(name="a", base_url=provider.url + "/", api_key="THE_KEY", **fields)
    provider.checkpoints[JOB] = paged(ITEMS)
    headers, query, _ = source.request_fields()
    listing = await list_checkpoints(url=source.base_url, headers=headers, query=query, page_size=20)
    assert listing.failure is None
    for request in provider.requests:
        assert expected == {name: request.headers.get(name) for name in expected}
        assert {**query, "limit": "20"} == {k: v for k, v in request.query.items() if k != "after"}
        assert KEY not in request.path_qs


async def test_the_environment_is_ignored(
    provider: Provider, list_checkpoints: ListCheckpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy or a netrc of the environment is not used, and a cookie of the provider is not sent back."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    provider.checkpoints[JOB] = web.Response(
        body=GOOD, headers={"Content-Type": "application/json", "Set-Cookie": "a=b; Path=/"}
    )
    url = provider.url.replace("127.0.0.1", "localhost")  # aiohttp keeps no cookies of IP addresses anyway
    assert [None, None] == [(await list_checkpoints(url=url, headers={})).failure for _ in range(2)]
    assert {(None, None)} == {(r.headers.get("Authorization"), r.headers.get("Cookie")) for r in provider.requests}


async def test_a_body_in_many_parts(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """A body that is compressed in thousands of parts is not read, because each part costs a copy of the rest."""
    provider.checkpoints[JOB] = raw(http_200(gzip.compress(b"") * 10_000, b"Content-Encoding: gzip"))
    listing = await list_checkpoints(retry_first=False)
    assert (ErrorClass.NOT_JSON, True) == (failure_class(listing), "more than 100 parts" in message(listing))
