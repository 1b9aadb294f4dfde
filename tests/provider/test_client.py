"""The client of the checkpoint lists, against a real server on loopback: what each answer means, and what it costs."""

import asyncio
import gzip
import json
import re
import socket
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from checkpointd.domain.failure import LONGEST_PAUSE, ErrorClass, Failure
from checkpointd.domain.listing import RawListing
from checkpointd.provider.client import Client
from checkpointd.provider.http import PAGE_BYTES, ApiError, Limits, open_session
from checkpointd.settings.model import Source
from support.provider import JOB, Answer, Provider, body, checkpoint, error, page, paged, raw

KEY = "canary.0123456789+/key=="
HEADERS = {"Authorization": f"Bearer {KEY}"}
MIB = 1024 * 1024
NOW = "Tue, 15 Nov 1994 08:12:31 GMT"
ITEMS = [checkpoint(number) for number in range(25, 0, -1)]
LAST_PAGE = page(ITEMS[:1])
GOOD = page(ITEMS[:2]).body
assert isinstance(GOOD, bytes)

Ask = Callable[..., Awaitable[RawListing]]


@pytest.fixture
async def ask(provider: Provider) -> AsyncIterator[Ask]:
    """Yield what lists a job's checkpoints within `seconds`, without waits between tries."""
    async with open_session() as http:

        async def listing(
            job: str = JOB, *, seconds: float = 60, patience: float = 60, backoff: float = 0, page_size: int = 100,
            url: str = "", headers: Mapping[str, str] = HEADERS, query: Mapping[str, str] | None = None,
        ) -> RawListing:  # fmt: skip
            limits = Limits(page_size, patience, backoff)
            secrets = [value.removeprefix("Bearer ") for value in headers.values()]
            client = Client(http, url or provider.url, headers, query or {}, limits, secrets)
            return await client.list_checkpoints(job, asyncio.get_running_loop().time() + seconds)

        yield listing


def ids(pages: RawListing) -> list[str]:
    """Return the ids of all items listed."""
    return [json.loads(bytes(item))["id"] for items in pages.pages for item in items]


def kind(pages: RawListing) -> ErrorClass | None:
    """Return why the listing broke off; None: it is whole."""
    return pages.failure and pages.failure.error_class


def message(pages: RawListing) -> str:
    """Return the words of the failure."""
    assert pages.failure
    return pages.failure.message


# Pages


async def test_all_pages_come_in_order(provider: Provider, ask: Ask) -> None:
    """A list of three pages is read by three requests, each after the last item before; then it is whole."""
    provider.checkpoints[JOB] = paged(ITEMS)
    pages = await ask(page_size=10)
    assert [item["id"] for item in ITEMS] == ids(pages)
    assert ([10, 10, 5], None, 3) == ([len(items) for items in pages.pages], pages.failure, pages.requests)
    assert [None, "ftckpt_0016", "ftckpt_0006"] == [request.query.get("after") for request in provider.requests]
    assert {"10"} == {request.query["limit"] for request in provider.requests}


@pytest.mark.parametrize("count", [0, 1, 25])
async def test_one_page_is_one_request(provider: Provider, ask: Ask, count: int) -> None:
    """A list that fits into a page, or is empty, costs a single request."""
    provider.checkpoints[JOB] = page(ITEMS[:count])
    pages = await ask()
    assert (count, None, 1, 1) == (len(ids(pages)), pages.failure, pages.requests, provider.asked())


async def test_items_keep_their_bytes(provider: Provider, ask: Ask) -> None:
    """An item is handed on as the provider wrote it, byte for byte."""
    item = '{"id":"a", "metrics": {"loss":1.10},"x":"\\u00e9"}'
    provider.checkpoints[JOB] = body(f'{{"object":"list","data":[{item}],"has_more":false}}')
    assert [[item.encode()]] == [[bytes(raw_item) for raw_item in items] for items in (await ask()).pages]


async def test_the_cursor_is_encoded(provider: Provider, ask: Ask) -> None:
    """An id with reserved characters is a cursor like any other."""
    odd = "a&limit=1#/?%2f ü+"
    provider.checkpoints[JOB] = [page([{"id": odd}], has_more=True), LAST_PAGE]
    assert None is (await ask()).failure
    assert ([odd], ["100"]) == (provider.requests[1].query.getall("after"), provider.requests[1].query.getall("limit"))


# What each status means


STATUSES: list[tuple[Answer, ErrorClass, int]] = [
    *((error(status), ErrorClass.SERVER_ERROR, 3) for status in (408, 409, 425, 500, 502, 503, 504, 520, 524, 529)),
    (body("<html>cloud", "text/html", 522), ErrorClass.SERVER_ERROR, 3),
    (error(429, "rate_limit_exceeded"), ErrorClass.THROTTLED, 1),
    (error(429, "slow_down"), ErrorClass.THROTTLED, 1),
    (error(429), ErrorClass.THROTTLED, 1),
    (body("Too many", "text/plain", 429), ErrorClass.THROTTLED, 1),
    (body('{"error": {"code": ["insufficient_quota"], "type": {}}}', status=429), ErrorClass.THROTTLED, 1),
    (error(429, "insufficient_quota"), ErrorClass.QUOTA, 1),
    (error(429, "credit_balance_exhausted"), ErrorClass.QUOTA, 1),
    (error(429, "organization_spend_limit_exceeded"), ErrorClass.QUOTA, 1),
    (error(429, "project_spend_limit_exceeded"), ErrorClass.QUOTA, 1),
    (error(429, "organization_usage_limit_exceeded"), ErrorClass.QUOTA, 1),
    (body('{"error": {"type": "insufficient_quota", "code": null}}', status=429), ErrorClass.QUOTA, 1),
    (error(401, "invalid_api_key"), ErrorClass.REFUSED, 1),
    (body("", status=401), ErrorClass.REFUSED, 1),
    (error(403, "no_access"), ErrorClass.FORBIDDEN, 1),
    (error(403, None, "This job belongs to another project"), ErrorClass.FORBIDDEN, 1),
    (error(403, "unsupported_country_region_territory"), ErrorClass.REFUSED, 1),
    (error(403, "insufficient_permissions"), ErrorClass.REFUSED, 1),
    (error(403, None, "Missing scopes: api.fine_tuning.jobs.read"), ErrorClass.REFUSED, 1),
    (body("<html>blocked", "text/html", 403), ErrorClass.REFUSED, 1),
    (body('{"error": "blocked"}', status=403), ErrorClass.REFUSED, 1),
    (error(404, "fine_tune_not_found"), ErrorClass.MISSING, 1),
    *((error(status), ErrorClass.BAD_REQUEST, 1) for status in (204, 400, 402, 405, 410, 413, 418, 422, 451)),
    *((error(status), ErrorClass.REDIRECT, 1) for status in (300, 301, 302, 303, 304, 307, 308)),
]


@pytest.mark.parametrize(("answer", "expected", "requests"), STATUSES)
async def test_a_status_says_what_failed(
    provider: Provider, ask: Ask, answer: Answer, expected: ErrorClass, requests: int
) -> None:
    """Each status of failure has its class; only those that may pass are tried again, three times in all."""
    provider.checkpoints[JOB] = answer
    pages = await ask()
    assert (expected, [], requests) == (kind(pages), pages.pages, pages.requests)
    assert pages.requests == provider.asked()


async def test_a_hiccup_costs_only_a_try(provider: Provider, ask: Ask) -> None:
    """Two failures that pass leave a whole listing."""
    provider.checkpoints[JOB] = [error(503), error(500), LAST_PAGE]
    pages = await ask()
    assert (None, 1, 3) == (pages.failure, len(ids(pages)), pages.requests)


async def test_each_page_has_its_own_tries(provider: Provider, ask: Ask) -> None:
    """A failure on every page is survived on every page."""
    first = page(ITEMS[:1], has_more=True)
    provider.checkpoints[JOB] = [error(500), error(500), first, error(500), error(500), page(ITEMS[1:2])]
    pages = await ask()
    assert (None, 2, 6) == (pages.failure, len(ids(pages)), pages.requests)


async def test_no_try_beyond_the_deadline(provider: Provider, ask: Ask) -> None:
    """A wait that would outlast the deadline is not begun: the failure is told at once."""
    provider.checkpoints[JOB] = error(500)
    begun = time.monotonic()
    pages = await ask(backoff=100)
    assert (ErrorClass.SERVER_ERROR, 1) == (kind(pages), pages.requests)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(provider: Provider, ask: Ask, status: int) -> None:
    """The other server sees no request, and with it no key."""
    async with Provider() as other:
        provider.checkpoints[JOB] = error(status, Location=f"{other.url}/fine_tuning/jobs/{JOB}/checkpoints")
        assert ErrorClass.REDIRECT is kind(await ask())
        assert [] == other.requests


# A cursor that got lost


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_lost_cursor_starts_again(provider: Provider, ask: Ask, status: int) -> None:
    """Where the cursor's checkpoint was dropped meanwhile, the list is read again; what was read before counts, too."""
    first, again = page(ITEMS[:2], has_more=True), page(ITEMS[1:3])
    provider.checkpoints[JOB] = [first, error(status), again]
    pages = await ask()
    assert (None, [i["id"] for i in (*ITEMS[:2], *ITEMS[1:3])], 3) == (pages.failure, ids(pages), pages.requests)
    assert [False, True, False] == ["after" in request.query for request in provider.requests]


async def test_a_cursor_lost_for_ever_ends(provider: Provider, ask: Ask) -> None:
    """It starts again twice, not more; what was read is returned."""
    provider.checkpoints[JOB] = [page(ITEMS[:1], has_more=True), error(400)] * 3 + [LAST_PAGE]
    pages = await ask()
    assert (ErrorClass.CURSOR_LOST, 6) == (kind(pages), pages.requests)
    assert {ITEMS[0]["id"]} == set(ids(pages))


async def test_a_second_failure_does_not_cost_the_first_pages(provider: Provider, ask: Ask) -> None:
    """What was read before the cursor got lost stays, where starting again fails otherwise."""
    provider.checkpoints[JOB] = [page(ITEMS[:2], has_more=True), error(400), error(404)]
    pages = await ask()
    assert (ErrorClass.MISSING, [i["id"] for i in ITEMS[:2]]) == (kind(pages), ids(pages))


# Retry-After


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("retry-after", "7")], 7),
        ([("Retry-After", "1.5")], 1.5),
        ([("retry-after-ms", "2500"), ("retry-after", "7")], 2.5),
        ([("retry-after-ms", "NaN"), ("retry-after", "7")], 7),
        ([("retry-after", "7"), ("retry-after", "9")], 7),
        ([("retry-after", "Tue, 15 Nov 1994 08:13:01 GMT")], 30),
        ([("retry-after", "Tue, 15 Nov 1994 08:12:01 GMT")], None),
        ([("retry-after", "Tue, 15 Nov 2094 08:12:01 GMT")], LONGEST_PAUSE),
        ([("retry-after", "Tue, 15 Nov 1994 08:13:01 -0000")], 30.0),
        ([("retry-after", "Tue Nov 15 08:13:01 1994")], 30.0),
        ([("retry-after", "Tue, 15 Nov 1994 08:13:01 +99999999999999999999")], None),
        ([("retry-after", "Tue, 15 Nov 99999999999999999999 08:13:01 GMT")], None),
        ([("retry-after", "NaN")], None),
        ([("retry-after", "inf")], None),
        ([("retry-after", "-1")], None),
        ([("retry-after", "0")], None),
        ([("retry-after", "")], None),
        ([("retry-after", "soon")], None),
        ([("retry-after", "1e9")], LONGEST_PAUSE),
        ([("retry-after", "9" * 5000)], None),
    ],
)
async def test_retry_after(
    provider: Provider, ask: Ask, headers: Sequence[tuple[str, str]], expected: float | None
) -> None:
    """Milliseconds, seconds or a date by the answer's own clock; at most an hour; nonsense counts as nothing said."""
    provider.checkpoints[JOB] = web.Response(status=429, headers=CIMultiDict([("Date", NOW), *headers]))
    failure = (await ask()).failure
    assert failure
    assert expected == failure.retry_after


async def test_a_date_needs_the_answers_clock(provider: Provider, ask: Ask) -> None:
    """A date is not taken against our own clock where the answer names no time."""
    provider.checkpoints[JOB] = raw(
        b"HTTP/1.1 429 X\r\nRetry-After: Tue, 15 Nov 2094 08:12:01 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    assert Failure(ErrorClass.THROTTLED, "HTTP 429", None, status=429) == (await ask()).failure


# Bodies


def whole(text: bytes, head: bytes = b"") -> bytes:
    """Return a complete answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n" + text


BODIES: list[tuple[str, Answer, ErrorClass, int]] = [
    ("error in a 200", body('{"error": {"message": "no", "code": null}}'), ErrorClass.ERROR_IN_200, 2),
    ("HTML", body("<html>hello</html>", "text/html"), ErrorClass.CONTENT_TYPE, 2),
    ("HTML that claims to be JSON", body("<html>hello</html>"), ErrorClass.HTML, 2),
    ("a list as text/html", body(GOOD, "text/html"), ErrorClass.CONTENT_TYPE, 2),
    ("no type at all", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), ErrorClass.CONTENT_TYPE, 2),
    ("shorter than announced", raw(whole(GOOD[:-9], b"Content-Length: %d" % len(GOOD))), ErrorClass.NETWORK, 3),
    ("cut, of no announced length", raw(whole(GOOD[:-9], b"Connection: close")), ErrorClass.NOT_JSON, 2),
    ("cut in a chunk", raw(whole(b"ff\r\n" + GOOD[:9], b"Transfer-Encoding: chunked")), ErrorClass.NETWORK, 3),
    ("reset", raw(whole(GOOD[:-9], b"Content-Length: %d" % len(GOOD)), reset=True), ErrorClass.NETWORK, 3),
    ("empty", body(b""), ErrorClass.EMPTY_BODY, 2),
    ("blank", body(b" \n"), ErrorClass.EMPTY_BODY, 2),
    ("followed by more", body(GOOD + b"{}"), ErrorClass.NOT_JSON, 2),
    ("no UTF-8", body(b"\xff" + GOOD), ErrorClass.NOT_JSON, 2),
    ("null", body("null"), ErrorClass.NOT_A_LIST, 2),
    ("an array", body("[]"), ErrorClass.NOT_A_LIST, 2),
    ("an empty object", body("{}"), ErrorClass.NOT_A_LIST, 2),
    ("data null", body('{"object": "list", "data": null, "has_more": false}'), ErrorClass.NOT_A_LIST, 2),
    ("another object", body('{"object": "job", "data": [], "has_more": false}'), ErrorClass.NOT_A_LIST, 2),
    ("has_more a text", body('{"object": "list", "data": [], "has_more": "false"}'), ErrorClass.BAD_HAS_MORE, 2),
    ("no has_more", body('{"object": "list", "data": []}'), ErrorClass.BAD_HAS_MORE, 2),
    ("an empty page before more", page([], has_more=True), ErrorClass.EMPTY_PAGE, 1),
    ("a last item without id", page([{"id": 5}], has_more=True), ErrorClass.BAD_HAS_MORE, 1),
    ("cut gzip", raw(whole(gzip.compress(GOOD)[:-20], b"Content-Encoding: gzip")), ErrorClass.NOT_JSON, 2),
    ("no gzip", raw(whole(GOOD, b"Content-Encoding: gzip")), ErrorClass.NETWORK, 3),
    ("of an unknown encoding", raw(whole(GOOD, b"Content-Encoding: br")), ErrorClass.NETWORK, 3),
    ("no HTTP", raw(b"SSH-2.0-OpenSSH\r\n\r\n"), ErrorClass.NETWORK, 3),
    ("of no known status", raw(b"HTTP/1.1 abc OK\r\n\r\n"), ErrorClass.NETWORK, 3),
    ("under an endless header", raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000), ErrorClass.NETWORK, 3),
    ("nothing", raw(b""), ErrorClass.NETWORK, 3),
]


@pytest.mark.parametrize(("answer", "expected", "requests"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_a_body_that_is_no_list(
    provider: Provider, ask: Ask, answer: Answer, expected: ErrorClass, requests: int
) -> None:
    """What is not a list is never an empty list: it has its class, and is tried again where that can help."""
    provider.checkpoints[JOB] = answer
    pages = await ask()
    assert (expected, [], requests) == (kind(pages), ids_or_none(pages), pages.requests)


def ids_or_none(pages: RawListing) -> list[str]:
    """Return the ids of the items that have one."""
    return [found for found in ids(pages) if isinstance(found, str)]


@pytest.mark.parametrize(("answer", "expected"), [b[1:3] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_what_came_before_a_failure_stays(
    provider: Provider, ask: Ask, answer: Answer, expected: ErrorClass
) -> None:
    """The items of the pages read are returned with the failure of the next."""
    provider.checkpoints[JOB] = [page(ITEMS[:2], has_more=True), answer]
    pages = await ask()
    assert (expected, [i["id"] for i in ITEMS[:2]]) == (kind(pages), ids_or_none(pages))


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "application/vnd.api+json"])
async def test_json_has_several_names(provider: Provider, ask: Ask, content_type: str) -> None:
    """A list is a list under each content type of JSON."""
    provider.checkpoints[JOB] = body(GOOD, content_type)
    assert None is (await ask()).failure


async def test_gzip_that_was_not_asked_for(provider: Provider, ask: Ask) -> None:
    """A gateway that compresses all the same is understood."""
    provider.checkpoints[JOB] = raw(whole(gzip.compress(GOOD), b"Content-Encoding: gzip"))
    pages = await ask()
    assert (None, 2) == (pages.failure, len(ids(pages)))
    assert "identity" == provider.requests[0].headers["Accept-Encoding"]


# Lists without an end


async def test_an_ignored_cursor_ends(provider: Provider, ask: Ask) -> None:
    """Page 1 for ever is noticed at its second coming."""
    provider.checkpoints[JOB] = page(ITEMS[:2], has_more=True)
    pages = await ask()
    assert (ErrorClass.CURSOR_REPEATED, 2) == (kind(pages), pages.requests)
    assert {i["id"] for i in ITEMS[:2]} == set(ids(pages))


async def test_a_circle_of_pages_ends(provider: Provider, ask: Ask) -> None:
    """A cursor that comes again after others ends the listing, too."""
    provider.checkpoints[JOB] = [page([item], has_more=True) for item in (*ITEMS[:3], *ITEMS[:3])]
    pages = await ask()
    assert (ErrorClass.CURSOR_REPEATED, 4) == (kind(pages), pages.requests)


@pytest.mark.parametrize(("more", "expected"), [(0, None), (1, ErrorClass.TOO_MANY_PAGES)])
async def test_at_most_so_many_pages(provider: Provider, ask: Ask, more: int, expected: ErrorClass | None) -> None:
    """A list of a hundred pages is whole; one more breaks off, with the items of all pages read."""
    provider.checkpoints[JOB] = paged([checkpoint(number) for number in range(100 + more, 0, -1)])
    pages = await ask(page_size=1)
    assert (expected, 100, 100) == (kind(pages), len(ids(pages)), pages.requests)


# Bounded in bytes


async def peak_of(listing: Awaitable[RawListing]) -> tuple[RawListing, int]:
    """Return what was listed, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        return await listing, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("status", "expected", "most"), [(200, ErrorClass.TOO_LARGE, PAGE_BYTES), (404, ErrorClass.MISSING, 64 * 1024)]
)
async def test_an_endless_body_is_not_read_on(
    provider: Provider, ask: Ask, status: int, expected: ErrorClass, most: int
) -> None:
    """Reading stops at the cap: of a page or, much earlier, of an error. The server can send no more."""
    sent = 0
    refused = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * MIB)
                sent += MIB
        except ConnectionError:
            refused.set()
        return response

    provider.checkpoints[JOB] = flood
    pages, peak = await peak_of(ask())
    await asyncio.wait_for(refused.wait(), 60)
    assert (expected, 1, []) == (kind(pages), pages.requests, pages.pages)
    assert sent < most + 16 * MIB, "the rest fits into the buffers of both sockets"
    assert peak < most + 12 * MIB


async def test_a_bomb_does_not_go_off(provider: Provider, ask: Ask) -> None:
    """Of a quarter of a gigabyte, packed into as many kilobytes, no more is unpacked than a page may have."""
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([*(packer.compress(bytes(MIB)) for _ in range(256)), packer.flush()])
    provider.checkpoints[JOB] = raw(whole(bomb, b"Content-Encoding: gzip"))
    pages, peak = await peak_of(ask())
    assert (ErrorClass.TOO_LARGE, 1) == (kind(pages), pages.requests)
    assert peak < PAGE_BYTES + 12 * MIB


# Bounded in time


async def silence(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    """Send a byte of a body now and then, for ever."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)  # the drip itself


@pytest.mark.parametrize("answer", [silence, drip])
async def test_a_slow_answer_ends_at_the_timeout(provider: Provider, ask: Ask, answer: Answer) -> None:
    """An answer that never comes, or never ends, costs three request timeouts."""
    provider.checkpoints[JOB] = answer
    begun = time.monotonic()
    pages = await ask(patience=0.1)
    assert (ErrorClass.TIMEOUT, 3) == (kind(pages), pages.requests)
    assert 0.3 <= time.monotonic() - begun < 30


async def test_the_deadline_caps_the_timeout(provider: Provider, ask: Ask) -> None:
    """A request ends at its poll's deadline, however long it might take by itself, and says so; what was read stays."""
    provider.checkpoints[JOB] = [page(ITEMS[:1], has_more=True), silence]
    begun = time.monotonic()
    pages = await ask(seconds=3, patience=60)
    assert (ErrorClass.TIMEOUT, 2, 1) == (kind(pages), pages.requests, len(ids(pages)))
    within = re.fullmatch(r"no complete answer within ([\d.]+) s", message(pages))
    assert within
    assert 0 < float(within[1]) <= 3
    assert time.monotonic() - begun < 30


async def test_nobody_listens(ask: Ask) -> None:
    """A refused connection is a network failure, tried three times."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        pages = await ask(url=f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert (ErrorClass.NETWORK, [], 3) == (kind(pages), pages.pages, pages.requests)


async def test_a_connection_is_used_again(provider: Provider, ask: Ask) -> None:
    """Listing after listing goes over one connection."""
    provider.checkpoints[JOB] = LAST_PAGE
    for _ in range(3):
        await ask()
    assert 1 == len({request.transport for request in provider.requests})


async def test_a_closed_connection_is_no_failure(provider: Provider, ask: Ask) -> None:
    """A server that closes its idle connections between polls costs nothing that is seen."""
    provider.checkpoints[JOB] = [LAST_PAGE, raw(b""), LAST_PAGE]
    assert [None, None] == [(await ask()).failure for _ in range(2)]


# No secret


ECHOES: list[Callable[[str], Answer]] = [
    lambda key: error(400, "bad", f"you sent Authorization: Bearer {key}, did you?"),
    lambda key: error(400, key, "the code is the key"),
    lambda key: error(401, "invalid_api_key", f"Incorrect API key provided: {key}"),
    lambda key: error(401, key, "Incorrect"),
    lambda key: error(403, "denied", key),
    lambda key: error(403, "insufficient_permissions", f"Missing scopes of {key}: api.fine_tuning.jobs.read"),
    lambda key: error(404, "x", f"{{'headers': {{'Authorization': 'Bearer {key}'}}}}"),
    lambda key: error(500, "x", "y" * 180 + key),
    lambda key: error(500, "x", f"it begins with {key[:12]}…"),
    lambda key: error(400, "x", f"{key}\n" * 500),
    lambda key: body(json.dumps({"error": {"message": f"no {key}"}})),
    lambda key: body(json.dumps({"error": {"message": "x" * 145 + key}})),
    lambda key: body(json.dumps({"error": [key]})),
    lambda key: body(json.dumps({"object": key, "data": [], "has_more": False})),
    lambda key: body(json.dumps({"data": [], "has_more": key})),
    lambda key: body("{}", f"text/{key}"),
    lambda key: body("{}", "text/" + "x" * 300 + key),
    lambda key: error(302, Location=f"http://127.0.0.1/{key}"),
]


@pytest.mark.parametrize("key", [KEY, "sk-proj-abcDEF0123456789_-xyz"])
@pytest.mark.parametrize("echo", ECHOES)
async def test_no_failure_tells_the_key(provider: Provider, ask: Ask, echo: Callable[[str], Answer], key: str) -> None:
    """Whatever a provider says, and wherever it says it: no failure shows the key or more than a beginning of it."""
    provider.checkpoints[JOB] = echo(key)
    shown = repr(await ask(headers={"Authorization": f"Bearer {key}"}))
    assert "failure=None" not in shown
    assert key[:10] not in shown


@pytest.mark.parametrize("masked", ["sk-abc***xyz", "sk-a***b", "abcd********wxyz", "Bearer abc.def"])
async def test_no_failure_tells_a_part_of_a_key(provider: Provider, ask: Ask, masked: str) -> None:
    """A key that the provider masked, or another's, is taken out, too."""
    provider.checkpoints[JOB] = error(400, None, f"Incorrect API key provided: {masked}.")
    found = message(await ask())
    assert found.startswith("HTTP 400 invalid_request_error Incorrect API key provided: [secret]")
    assert masked not in found


SCOPES = "Missing scopes: api.fine_tuning.jobs.read"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error(401, "invalid_api_key", "Incorrect API key provided: ab12"), "HTTP 401 invalid_api_key"),
        (error(403, "insufficient_permissions", SCOPES), f"HTTP 403 insufficient_permissions {SCOPES}"),
        (error(403, None, f"sk-ab***yz: {SCOPES}"), f"HTTP 403 invalid_request_error [secret]: {SCOPES}"),
        (error(403, "denied", "of another project"), "HTTP 403 denied of another project"),
        (error(404, "not_found", "no such job"), "HTTP 404 not_found no such job"),
    ],
)
async def test_why_something_is_refused(provider: Provider, ask: Ask, answer: Answer, said: str) -> None:
    """What the provider says of a refusal is told, such as a missing scope; but of a 401 nothing: it quotes the key."""
    provider.checkpoints[JOB] = answer
    assert said == message(await ask())


@pytest.mark.parametrize(
    "said",
    [
        "one\ntwo\r\nthree",
        "\x1b[31mred\x07\0",
        "\u2028\u202e\x85",
        "\ud800",
        "long " * 10_000,
        "a-" * 30_000,
        "*" * 60_000,
    ],
)
@pytest.mark.parametrize(
    "answer",
    [
        lambda said: error(400, None, said),
        lambda said: error(400, said),
        lambda said: body(json.dumps({"error": {"message": said}})),
    ],
)
async def test_a_failure_is_one_short_line(
    provider: Provider, ask: Ask, said: str, answer: Callable[[str], Answer]
) -> None:
    """However long and odd a provider's words are: at most 200 printable characters, quickly."""
    provider.checkpoints[JOB] = answer(said)
    begun = time.monotonic()
    found = message(await ask())
    assert (True, True) == (0 < len(found) <= 200, found.isprintable()), found
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "x", KEY),
        body("{}", f"text/{KEY}"),
        body(json.dumps({"error": {"message": KEY}})),
        raw(b"HTTP/1.1 abc OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000),
        raw(whole(b"", b"Content-Length: 9")),
        raw(b"", reset=True),
        silence,
    ],
)
async def test_no_exception_holds_the_request(provider: Provider, answer: Answer) -> None:
    """Neither what is raised nor what it was raised from, by text or repr, shows the key: not even a debugger does."""
    provider.jobs = answer
    async with open_session() as http:
        client = Client(http, provider.url, HEADERS, {}, Limits(100, 0.1, backoff=0), secrets=[KEY])
        with pytest.raises(ApiError) as caught:
            [_ async for _ in client.list_jobs(asyncio.get_running_loop().time() + 5)]
    shown = "".join(traceback.format_exception(caught.value))
    error_: BaseException | None = caught.value
    while error_:
        shown += f"{error_} {error_!r} {vars(error_)}"
        error_ = error_.__cause__ or error_.__context__
    assert KEY not in shown


# What is sent


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
    provider: Provider, ask: Ask, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any],
    expected: dict[str, str | None],
) -> None:  # fmt: skip
    """Each kind of source gets its key where it looks for it, with the headers and the query of the settings."""
    monkeypatch.setenv("THE_KEY", KEY)
    source = Source(name="a", base_url=provider.url + "/", api_key="THE_KEY", **fields)
    provider.checkpoints[JOB] = paged(ITEMS)
    assert (
        None
        is (await ask(url=source.base_url, headers=source.request_headers(), query=source.query, page_size=20)).failure
    )
    for request in provider.requests:
        assert expected == {name: request.headers.get(name) for name in expected}
        assert {**source.query, "limit": "20"} == {k: v for k, v in request.query.items() if k != "after"}
        assert KEY not in request.path_qs


async def test_the_environment_is_not_trusted(
    provider: Provider, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a proxy nor a netrc of the environment, nor a cookie of the provider, changes what is sent where."""
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
    url = provider.url.replace("127.0.0.1", "localhost")  # bare addresses get no cookies from anybody
    assert [None, None] == [(await ask(url=url, headers={})).failure for _ in range(2)]
    assert {(None, None)} == {(r.headers.get("Authorization"), r.headers.get("Cookie")) for r in provider.requests}


@pytest.mark.parametrize("job", ["ftjob-x/../../y", "ftjob-?a=b#c", "ftjob-%2f", "ftjob-'; drop", "ftjob-ü\r\nX: y"])
async def test_a_job_id_is_one_part_of_the_path(provider: Provider, ask: Ask, job: str) -> None:
    """Whatever an id is made of, it stays within its place in the path."""
    provider.checkpoints[job] = LAST_PAGE
    assert None is (await ask(job)).failure
    (request,) = provider.requests
    path = re.fullmatch(r"/v1/fine_tuning/jobs/([A-Za-z0-9_.~%-]+)/checkpoints\?limit=100", request.raw_path)
    assert path
    assert job == request.match_info["job"]


# The job list


async def test_the_job_list_comes_page_by_page(provider: Provider) -> None:
    """Pages before a failure are handed over before it is raised."""
    provider.jobs = [page([{"id": "a"}], has_more=True), page([{"id": "b"}], has_more=True), error(403, "denied")]
    seen: list[bytes] = []

    async def read() -> None:
        async with open_session() as http:
            client = Client(http, provider.url, HEADERS, {}, Limits(1, backoff=0))
            async for items in client.list_jobs(asyncio.get_running_loop().time() + 5):
                seen.extend(bytes(item) for item in items)

    with pytest.raises(ApiError) as caught:
        await read()
    assert [b'{"id": "a"}', b'{"id": "b"}'] == seen
    assert ErrorClass.FORBIDDEN is caught.value.failure.error_class
    assert [None, "a", "b"] == [request.query.get("after") for request in provider.requests]
