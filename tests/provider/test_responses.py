"""What each answer means: its status, its Retry-After, and a body that is not a list."""

import gzip
from collections.abc import Sequence

import pytest
from aiohttp import web
from multidict import CIMultiDict

from checkpointd.domain.failure import LONGEST_PAUSE, ErrorClass, Failure
from checkpointd.domain.listing import RawListing
from support.lists import GOOD, ITEMS, ListCheckpoints, failure_class, http_200, ids
from support.provider import JOB, Answer, Provider, body, error, page, raw

NOW = "Tue, 15 Nov 1994 08:12:31 GMT"


# Statuses


STATUSES: list[tuple[Answer, ErrorClass, int]] = [
    *((error(status), ErrorClass.SERVER_ERROR, 2) for status in (408, 409, 425, 500, 502, 503, 504, 520, 524, 529)),
    (body("<html>cloud", "text/html", 522), ErrorClass.SERVER_ERROR, 2),
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
    (error(402), ErrorClass.QUOTA, 1),
    (body("", status=402), ErrorClass.QUOTA, 1),
    (error(204), ErrorClass.EMPTY_BODY, 2),
    (error(205), ErrorClass.EMPTY_BODY, 2),
    (error(401, "invalid_api_key"), ErrorClass.REFUSED, 1),
    (body("", status=401), ErrorClass.REFUSED, 1),
    (error(403, "no_access"), ErrorClass.FORBIDDEN, 1),
    (error(403, None, "This job belongs to another project"), ErrorClass.FORBIDDEN, 1),
    (error(403, "unsupported_country_region_territory"), ErrorClass.REFUSED, 1),
    (error(403, "insufficient_permissions"), ErrorClass.REFUSED, 1),
    (error(403, None, "Missing scopes: api.fine_tuning.jobs.read"), ErrorClass.REFUSED, 1),
    (body('{"detail": "Insufficient permissions. Missing scopes: api.read"}', status=403), ErrorClass.REFUSED, 1),
    (body('{"detail": "Not your job"}', status=403), ErrorClass.FORBIDDEN, 1),
    (body('{"error": "blocked"}', status=403), ErrorClass.FORBIDDEN, 1),
    (error(404, "fine_tune_not_found"), ErrorClass.MISSING, 1),
    (body('{"detail": "Not Found"}', status=404), ErrorClass.MISSING, 1),
    (body('{"message": "no Route matched with those values"}', status=404), ErrorClass.MISSING, 1),
    (body("default backend - 404", "text/plain", 404), ErrorClass.GATEWAY, 1),
    (body("", status=404), ErrorClass.GATEWAY, 1),
    (body("[]", status=404), ErrorClass.GATEWAY, 1),
    (body("{}", status=404), ErrorClass.GATEWAY, 1),
    *((body("<html>no", "text/html", status), ErrorClass.GATEWAY, 1) for status in (400, 403, 404, 405, 406, 410, 421)),
    *((error(status), ErrorClass.BAD_REQUEST, 1) for status in (400, 405, 410, 413, 418, 422, 451)),
    *((error(status), ErrorClass.REDIRECT, 1) for status in (300, 301, 302, 303, 304, 307, 308)),
]


@pytest.mark.parametrize(("answer", "expected", "requests"), STATUSES)
async def test_each_status_has_its_class(
    provider: Provider, list_checkpoints: ListCheckpoints, answer: Answer, expected: ErrorClass, requests: int
) -> None:
    """Each error status has its class. Only transient failures are retried, with two requests in all."""
    provider.checkpoints[JOB] = answer
    listing = await list_checkpoints()
    assert (expected, [], requests) == (failure_class(listing), listing.pages, listing.requests)
    assert listing.requests == provider.asked()


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
    provider: Provider, list_checkpoints: ListCheckpoints, headers: Sequence[tuple[str, str]], expected: float | None
) -> None:
    """Retry-After is read in milliseconds, seconds or as a date, up to an hour. An invalid one is ignored."""
    provider.checkpoints[JOB] = web.Response(status=429, headers=CIMultiDict([("Date", NOW), *headers]))
    failure = (await list_checkpoints()).failure
    assert failure
    assert expected == failure.retry_after


async def test_retry_after_a_date_needs_the_answers_clock(
    provider: Provider, list_checkpoints: ListCheckpoints
) -> None:
    """A date in Retry-After is ignored if the answer has no Date: it is not compared with the clock of this machine."""
    provider.checkpoints[JOB] = raw(
        b"HTTP/1.1 429 X\r\nRetry-After: Tue, 15 Nov 2094 08:12:01 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    assert Failure(ErrorClass.THROTTLED, "HTTP 429 X", None, status=429) == (await list_checkpoints()).failure


# Bodies


BODIES: list[tuple[str, Answer, ErrorClass, int]] = [
    ("error in a 200", body('{"error": {"message": "no", "code": null}}'), ErrorClass.ERROR_IN_200, 2),
    ("HTML", body("<html>hello</html>", "text/html"), ErrorClass.CONTENT_TYPE, 2),
    ("HTML that claims to be JSON", body("<html>hello</html>"), ErrorClass.HTML, 2),
    ("no type at all", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), ErrorClass.NOT_A_LIST, 2),
    ("text without a type", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"), ErrorClass.CONTENT_TYPE, 2),
    ("shorter than announced", raw(http_200(GOOD[:-9], b"Content-Length: %d" % len(GOOD))), ErrorClass.NETWORK, 2),
    ("cut, of no announced length", raw(http_200(GOOD[:-9], b"Connection: close")), ErrorClass.NOT_JSON, 2),
    ("cut in a chunk", raw(http_200(b"ff\r\n" + GOOD[:9], b"Transfer-Encoding: chunked")), ErrorClass.NETWORK, 2),
    ("reset", raw(http_200(GOOD[:-9], b"Content-Length: %d" % len(GOOD)), reset=True), ErrorClass.NETWORK, 2),
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
    ("cut gzip", raw(http_200(gzip.compress(GOOD)[:-20], b"Content-Encoding: gzip")), ErrorClass.NOT_JSON, 2),
    ("no gzip", raw(http_200(b"?" + GOOD, b"Content-Encoding: gzip")), ErrorClass.NOT_JSON, 2),
    ("of another compression", raw(http_200(b"\x1b" + GOOD, b"Content-Encoding: br")), ErrorClass.NOT_JSON, 2),
    ("no HTTP", raw(b"SSH-2.0-OpenSSH\r\n\r\n"), ErrorClass.NETWORK, 2),
    ("of no known status", raw(b"HTTP/1.1 abc OK\r\n\r\n"), ErrorClass.NETWORK, 2),
    ("under an endless header", raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000), ErrorClass.NETWORK, 2),
    ("nothing", raw(b""), ErrorClass.NETWORK, 2),
]


@pytest.mark.parametrize(("answer", "expected", "requests"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_a_body_that_is_not_a_list(
    provider: Provider, list_checkpoints: ListCheckpoints, answer: Answer, expected: ErrorClass, requests: int
) -> None:
    """A body that is not a list is never an empty list: it has its class, and is read again if that may help."""
    provider.checkpoints[JOB] = answer
    listing = await list_checkpoints()
    assert (expected, [], requests) == (failure_class(listing), string_ids(listing), listing.requests)


def string_ids(listing: RawListing) -> list[str]:
    """Return the ids that are strings."""
    return [found for found in ids(listing) if isinstance(found, str)]


@pytest.mark.parametrize(("answer", "expected"), [b[1:3] for b in BODIES], ids=[b[0] for b in BODIES])
async def test_pages_before_a_failure_are_kept(
    provider: Provider, list_checkpoints: ListCheckpoints, answer: Answer, expected: ErrorClass
) -> None:
    """The items of the pages before a failure are returned with it."""
    provider.checkpoints[JOB] = [page(ITEMS[:2], has_more=True), answer]
    listing = await list_checkpoints()
    assert (expected, [i["id"] for i in ITEMS[:2]]) == (failure_class(listing), string_ids(listing))


@pytest.mark.parametrize(
    "content_type", ["Application/JSON; charset=utf-8", "application/vnd.api+json", "text/html", "image/png", "?"]
)
async def test_content_types_of_json(provider: Provider, list_checkpoints: ListCheckpoints, content_type: str) -> None:
    """A list is accepted with each content type: the body decides."""
    provider.checkpoints[JOB] = body(GOOD, content_type)
    assert None is (await list_checkpoints()).failure


async def test_gzip_that_was_not_requested(provider: Provider, list_checkpoints: ListCheckpoints) -> None:
    """An answer that a gateway compressed is read, although the request accepts only `identity`."""
    provider.checkpoints[JOB] = raw(http_200(gzip.compress(GOOD), b"Content-Encoding: gzip"))
    listing = await list_checkpoints()
    assert (None, 2) == (listing.failure, len(ids(listing)))
    assert "identity" == provider.requests[0].headers["Accept-Encoding"]
