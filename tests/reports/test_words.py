"""Errors whose words were lost or misread, and bodies that were refused although they are correct lists."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from checkpointd.cli.findings import Finding
from checkpointd.cli.source_findings import Try, assess_source
from checkpointd.polling.setup import open_client
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.settings.source import Source
from support.harness import polling_one, read_job_list, sync, tick, track
from support.provider import JOB, Answer, Provider, body, checkpoint, error, job, page, paged, raw

ITEMS = [checkpoint(number) for number in range(120, 0, -1)]
LIST = json.dumps({"object": "list", "data": [checkpoint(2), checkpoint(1)], "has_more": False}).encode()
BOM = b"\xef\xbb\xbf"


async def _failure(sql: asyncpg.Connection) -> tuple[str | None, str | None]:
    """Return the class and the words of the failure of the job's last poll."""
    row = await sql.fetchrow("select error_class, last_error from fine_tuning.freshness where source = 'test'")
    return tuple(row)


async def _check(provider: Provider, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Finding:
    """Return the finding of `check` about the job list of a source."""
    monkeypatch.setenv("THE_KEY", "canary-key-0123456789")
    source = Source(name="a", api_key="THE_KEY", base_url=provider.url, **fields)
    async with open_session() as http:
        client: Client = open_client(source, source.request_fields(), None, http, Limits(1))
        result = await client.probe(1e12)
    return assess_source(source, [Try(None, result.failure)])


# Nothing left to spend


CREDITS: list[tuple[Answer, str]] = [
    (body('{"error":{"message":"Insufficient credits","code":402}}', status=402), "HTTP 402 Insufficient credits"),
    (body('{"detail":"Payment required: add a card"}', status=402), "HTTP 402 Payment required: add a card"),
    (body("", status=402), "HTTP 402 Payment Required"),
    (body("<html><title>Pay first</title>", "text/html", 402), "HTTP 402 a web page: Pay first"),
    (error(403, "insufficient_balance", "Top up first"), "HTTP 403 insufficient_balance Top up first"),
    (
        error(400, None, "Your credit balance is too low"),
        "HTTP 400 invalid_request_error Your credit balance is too low",
    ),
    (error(429, "insufficient_quota", "no quota"), "HTTP 429 insufficient_quota no quota"),
    (
        body('{"error":{"message":"Insufficient credits","code":402}}'),
        "an error with status 200: Insufficient credits",
    ),
]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(("answer", "expected"), CREDITS)
async def test_no_credits(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    expected: str,
) -> None:
    """If nothing is left to spend, the source pauses once, with the provider's words, and no job counts a failure.

    `check` says so, and does not ask whether the address is right.
    """
    jobs = [f"ftjob-{number}" for number in range(40)]
    provider.checkpoints = dict.fromkeys(jobs, answer)
    await track(store, *jobs)
    async with polling_one(store, provider) as (poller, _, _):
        for _ in range(3):
            await tick(poller)
    assert len(provider.requests) <= 8  # as many as were under way at once
    assert ("paused", expected) == tuple(await sql.fetchrow("select state, last_error from fine_tuning.sources"))
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where failures > 0")
    provider.jobs = answer
    found = await _check(provider, monkeypatch)
    assert "fail" == found.state
    assert f"{expected} (the account is out of quota: nothing is polled until it has quota again)" == found.message


# The provider's words


SAID: list[tuple[Answer, str]] = [
    (
        body('{"detail":[{"loc":["query","n"],"msg":"value is not a valid integer"}]}', status=422),
        "HTTP 422 query.n: value is not a valid integer",
    ),
    (body('{"errors":[{"title":"Bad","detail":"unknown cursor"}]}', status=400), "HTTP 400 Bad: unknown cursor"),
    (body('{"title":"Gone","detail":"Archived in May","status":410}', status=410), "HTTP 410 Gone: Archived in May"),
    (body('{"fault":{"faultstring":"Policy failed"}}', status=500), "HTTP 500 Policy failed"),
    (body('{"statusCode":406,"message":"API version is old"}', status=406), "HTTP 406 API version is old"),
    (body("upstream connect error\ntrace", "text/plain", 503), "HTTP 503 upstream connect error"),
    (body("<html><h1>Down for <i>repair</i></h1>", "text/html", 503), "HTTP 503 a web page: Down for repair"),
    (body("<Error><Code>Slow</Code><Message>Wait</Message></Error>", "text/xml", 503), "HTTP 503 Slow Wait"),
    (body(b"\x00\x01", "image/png", 502), "HTTP 502 Bad Gateway (image/png)"),
    (error(500, None, "one\ntwo\x1b[31m\u202e three"), "HTTP 500 invalid_request_error one two [31m three"),
    (body('{"error":{"message":"It is gone","code":"gone"}}'), "an error with status 200: gone It is gone"),
    (body('{"detail":"Upstream is down"}'), "an error with status 200: Upstream is down"),
    (body('{"message":"Welcome"}'), "no array `data`, but these words: Welcome"),
]


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize(("answer", "expected"), SAID)
async def test_the_providers_own_words(
    store: Store, provider: Provider, sql: asyncpg.Connection, answer: Answer, expected: str
) -> None:
    """The failure of a poll has the provider's words, whatever the format, as one clean line."""
    provider.checkpoints[JOB] = answer
    await sync(store, provider)
    _, last_error = await _failure(sql)
    source_error = await sql.fetchval("select last_error from fine_tuning.sources")
    assert expected in {last_error, source_error}


@pytest.mark.parametrize(
    ("answer", "state", "expected"),
    [
        (
            body('{"detail":[{"loc":["query","limit"],"msg":"must be at least 20"}]}', status=422),
            "fail",
            "HTTP 422 query.limit: must be at least 20",
        ),
        (
            error(400, "unsupported", "Fine-tuning is off here"),
            "fail",
            "HTTP 400 unsupported Fine-tuning is off here",
        ),
        (body('{"error":"The project was deleted"}'), "fail", "an error with status 200: The project was deleted"),
        (
            error(403, "unsupported_country_region_territory", "Country not supported"),
            "fail",
            "HTTP 403 unsupported_country_region_territory Country not supported (nothing is polled until the provider",
        ),
        (
            error(401, None, "Your account was deactivated"),
            "fail",
            "HTTP 401 invalid_request_error Your account was deactivated (nothing is polled until the provider",
        ),
        (
            web.Response(status=401, headers={"WWW-Authenticate": 'Bearer error_description="The token has ended"'}),
            "fail",
            "HTTP 401 The token has ended (the key is wrong",
        ),
        (
            error(401, "invalid_api_key", "Incorrect API key provided: canary-k*****6789. See https://h.example."),
            "fail",
            "HTTP 401 invalid_api_key Incorrect API key provided: [secret] See https://h.example. (the key is wrong",
        ),
        (
            error(401, None, "The key ending in 6789 was revoked on Monday"),
            "fail",
            "HTTP 401 invalid_request_error The key ending in [secret] was revoked on Monday (the key is wrong",
        ),
    ],
)
async def test_advice_only_where_it_is_certain(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, answer: Answer, state: str, expected: str
) -> None:
    """`check` shows the words that explain an error, without a guess beside them, and never a part of the key."""
    provider.jobs = answer
    found = await _check(provider, monkeypatch)
    assert (state, expected) == (found.state, found.message[: len(expected)])
    assert found.message == expected or "(" in expected


# The page size


def _at_most(most: int, answer: Callable[[int], Answer]) -> Answer:
    """Return an answer that serves ITEMS in pages of `most` items, and refuses larger pages."""
    serve = paged(ITEMS)

    async def respond(request: web.Request) -> web.StreamResponse:
        if int(request.query["limit"]) <= most:
            return await serve(request)
        refusal = answer(most)
        assert isinstance(refusal, web.Response)
        return web.Response(body=refusal.body, status=refusal.status, headers=refusal.headers)

    return respond


def _json(status: int, make: Callable[[int], object]) -> Callable[[int], Answer]:
    return lambda most: body(json.dumps(make(most)), status=status)


PAGE_SIZES: list[tuple[int, Callable[[int], Answer], list[str]]] = [
    (
        50,
        _json(
            422,
            lambda n: {
                "detail": [{"loc": ["query", "limit"], "msg": f"ensure this value is less than or equal to {n}"}]
            },
        ),
        ["100", "50", "50", "50"],
    ),
    (
        50,
        _json(422, lambda n: {"detail": [{"loc": ["query", "limit"], "msg": "too large", "ctx": {"le": n}}]}),
        ["100", "50", "50", "50"],
    ),
    (40, _json(400, lambda n: {"error": {"message": f"'limit' must be between 1 and {n}"}}), ["100", "40", "40", "40"]),
    (60, _json(400, lambda n: {"message": [f"limit must not be greater than {n}"]}), ["100", "60", "60"]),
    (60, lambda n: body(f"page size exceeds the maximum of {n}", "text/plain", 413), ["100", "60", "60"]),
    (30, _json(422, lambda _: {"detail": "limit is too large"}), ["100", "50", "25", "25", "25", "25", "25"]),
    (60, _json(200, lambda n: {"error": f"per_page: at most {n}"}), ["100", "60", "60"]),
    (
        60,
        _json(500, lambda n: {"errors": [{"detail": f"must be <= {n}", "source": {"parameter": "limit"}}]}),
        ["100", "60", "60"],
    ),
]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(("most", "answer", "limits"), PAGE_SIZES)
async def test_a_page_size_that_is_too_large(
    store: Store,
    provider: Provider,
    sql: asyncpg.Connection,
    most: int,
    answer: Callable[[int], Answer],
    limits: list[str],
) -> None:
    """If the provider says that the page size is too large, the same poll reads the list with a smaller one."""
    provider.checkpoints[JOB] = _at_most(most, answer)
    await sync(store, provider)
    assert (None, None) == await _failure(sql)
    assert len(ITEMS) == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert limits == [request.query["limit"] for request in provider.requests]


async def test_the_smaller_page_size_is_kept_and_logged(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller page size is used for all later requests of the source, and logged once."""
    monkeypatch.setenv("THE_KEY", "canary-key-0123456789")
    refusal = _json(422, lambda n: {"detail": [{"loc": ["query", "limit"], "msg": f"at most {n}"}]})
    provider.checkpoints = {name: _at_most(50, refusal) for name in (JOB, "ftjob-2")}
    provider.jobs = page([job()])
    source = Source(name="a", api_key="THE_KEY", base_url=provider.url)
    async with open_session() as http:
        client = open_client(source, source.request_fields(), None, http, Limits(100))
        with capture_logs() as logged:
            listings = [await client.list_checkpoints(name, 1e12) for name in (JOB, "ftjob-2")]
            _ = [items async for items in client.list_jobs(1e12)]
    assert [(None, 120), (None, 120)] == [(found.failure, sum(map(len, found.pages))) for found in listings]
    assert ["100", *["50"] * 7] == [request.query["limit"] for request in provider.requests]
    (line,) = [line for line in logged if line["event"] == "source.page_size"]
    assert ("warning", "a", 50) == (line["log_level"], line["source"], line["page_size"])
    assert "HTTP 422 query.limit: at most 50" == line["error"]


async def test_a_later_page_is_too_large(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If only a later page is refused for its size, the listing goes on after the same cursor, with smaller pages."""
    refusal = body('{"message":"limit must be <= 10"}', status=400)
    provider.checkpoints[JOB] = [
        page(ITEMS[:100], has_more=True),
        refusal,
        page(ITEMS[100:110], has_more=True),
        page(ITEMS[110:]),
    ]
    await sync(store, provider)
    assert len(ITEMS) == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    asked = [(request.query["limit"], request.query.get("after")) for request in provider.requests]
    after = ITEMS[99]["id"]
    assert [("100", None), ("100", after), ("10", after), ("10", ITEMS[109]["id"])] == asked


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    "answer",
    [
        error(400, None, "You have reached the limit of 50 jobs"),
        error(400, None, "Max limit of concurrent fine-tuning jobs is 3"),
        error(400, None, "You have reached the maximum limit of 5 active fine-tuning jobs"),
        error(422, None, "maximum limit for training files exceeded"),
        error(429, None, "Rate limit: at most 50 requests per minute"),
        error(403, None, "Your plan's limit must be at most 50"),
        body('{"detail":[{"loc":["path","job_id"],"msg":"at most 50 characters"}]}', status=422),
        body('{"detail":[{"loc":["query","limit"],"msg":"must be at least 200"}]}', status=422),
    ],
)
async def test_limits_of_other_things(store: Store, provider: Provider, answer: Answer) -> None:
    """Words about another limit leave the page size as it is."""
    provider.checkpoints[JOB] = answer
    provider.jobs = page([])
    await sync(store, provider)
    await read_job_list(store, provider)
    assert {"100"} == {request.query["limit"] for request in provider.requests}
    assert 1 == provider.asked()


async def test_a_page_size_that_is_never_small_enough(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A provider that calls every page size too large gets a limited number of requests, and the poll fails."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        return error(422, None, f"limit must be less than {request.query['limit']}")

    provider.checkpoints[JOB] = refuse
    await sync(store, provider)
    assert 9 == provider.asked()
    assert "bad_request" == (await _failure(sql))[0]


# Bodies


def _sent(content: bytes, *headers: str) -> Answer:
    """Return an answer with status 200, these headers and this body, as they are."""
    lines = ["HTTP/1.1 200 OK", *headers, f"Content-Length: {len(content)}"]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


JSON = "Content-Type: application/json"
RAW_DEFLATE = zlib.compressobj(wbits=-15)
LISTS: list[tuple[str, Answer]] = [
    ("a byte order mark", _sent(BOM + LIST, JSON)),
    ("no content type", _sent(LIST)),
    ("text/plain", _sent(LIST, "Content-Type: text/plain; charset=utf-8")),
    ("text/html", _sent(LIST, "Content-Type: text/html; charset=utf-8")),
    ("octet-stream", _sent(LIST, "Content-Type: application/octet-stream")),
    ("an empty content type", _sent(LIST, "Content-Type: ")),
    ("text/json with a byte order mark", _sent(BOM + LIST, "Content-Type: text/json")),
    ("UTF-16 with a byte order mark", _sent(LIST.decode().encode("utf-16"), JSON)),
    ("UTF-16 without one", _sent(LIST.decode().encode("utf-16-le"), JSON)),
    ("UTF-32", _sent(LIST.decode().encode("utf-32"), JSON)),
    ("Latin-1", _sent(LIST.replace(b"gpt", b"g\xe9t"), "Content-Type: application/json; charset=ISO-8859-1")),
    ("gzip", _sent(gzip.compress(LIST), JSON, "Content-Encoding: gzip")),
    ("gzip in two parts", _sent(gzip.compress(LIST[:99]) + gzip.compress(LIST[99:]), JSON, "Content-Encoding: x-gzip")),
    ("gzip without its label", _sent(gzip.compress(BOM + LIST), JSON)),
    ("deflate", _sent(zlib.compress(LIST), JSON, "Content-Encoding: deflate")),
    ("raw deflate", _sent(RAW_DEFLATE.compress(LIST) + RAW_DEFLATE.flush(), JSON, "Content-Encoding: deflate")),
    ("a wrong label of gzip", _sent(LIST, JSON, "Content-Encoding: gzip")),
    ("a wrong label of br", _sent(LIST, JSON, "Content-Encoding: br")),
    ("a wrong label of deflate", _sent(LIST, JSON, "Content-Encoding: deflate")),
    ("identity", _sent(LIST, JSON, "Content-Encoding: identity")),
    ("status 203", body(LIST, status=203)),
]


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize("answer", [found[1] for found in LISTS], ids=[found[0] for found in LISTS])
async def test_a_list_is_a_list(store: Store, provider: Provider, sql: asyncpg.Connection, answer: Answer) -> None:
    """A body that proves to be a list is accepted, whatever its labels are."""
    provider.checkpoints[JOB] = answer
    await sync(store, provider)
    assert (None, None) == await _failure(sql)
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.rejects")


BROTLI = b"\x1b\x2f\x00\xf8\x8d\x94\x6e\xa0" * 8
COMPRESSED = "the body is compressed with {}, which was not asked for: a proxy or gateway in between changes it"
CAUSES: list[tuple[str, Answer, str, str]] = [
    ("br", _sent(BROTLI, JSON, "Content-Encoding: br"), "not_json", COMPRESSED.format("br")),
    ("zstd", _sent(b"\x28\xb5\x2f\xfd" + BROTLI, JSON), "not_json", COMPRESSED.format("zstd")),
    (
        "cut gzip",
        _sent(gzip.compress(LIST)[:-20], JSON, "Content-Encoding: gzip"),
        "not_json",
        "the body is cut off within its compression (gzip)",
    ),
    (
        "damaged gzip",
        _sent(gzip.compress(LIST)[:20] + b"\xff" * 30, JSON, "Content-Encoding: gzip"),
        "not_json",
        "the body is damaged: it is not valid gzip",
    ),
    ("HTML", _sent(b"<html><title>Sign in</title>", JSON), "html", "a web page, not JSON: Sign in"),
    (
        "labelled HTML",
        _sent(b"<html><title>Sign in</title>", "Content-Type: text/html"),
        "content_type",
        "content type text/html: a web page, not JSON: Sign in",
    ),
    (
        "HTML as text",
        _sent(b"<!doctype html><h1>Wi-Fi</h1>", "Content-Type: text/plain"),
        "content_type",
        "content type text/plain: a web page, not JSON: Wi-Fi",
    ),
    ("text", _sent(b"no healthy upstream", JSON), "not_json", "text, not JSON: no healthy upstream"),
    (
        "text without a type",
        _sent(b"no healthy upstream"),
        "content_type",
        "content type none: text, not JSON: no healthy upstream",
    ),
    ("binary data", _sent(b"\x00\x01\x02", JSON), "not_json", "binary data, not JSON: 3 bytes"),
    ("cut JSON", _sent(LIST[:99], JSON), "not_json", "JSON that is cut off after 99 bytes"),
    ("damaged JSON", _sent(b'{"data": [,]}', JSON), "not_json", "JSON that is damaged at character 11, of 13 bytes"),
    (
        "a prefix",
        _sent(b")]}',\n" + LIST, JSON),
        "not_json",
        "JSON after the prefix )]}', which belongs to an API for web pages",
    ),
    (
        "one document per line",
        _sent(b'{"id": "a"}\n{"id": "b"}\n', JSON),
        "not_json",
        "several JSON documents, such as one per line, and not one list",
    ),
    ("events", _sent(b"data: {}\n\n", JSON), "not_json", "a stream of events, not one JSON document"),
    (
        "cut UTF-16",
        _sent(LIST.decode().encode("utf-16")[:-1], JSON),
        "not_json",
        f"text in utf-16 that is damaged or cut off: {len(LIST) * 2 + 1} bytes",
    ),
    ("204", body("", status=204), "empty_body", "HTTP 204 No Content"),
    ("nothing", _sent(b"", JSON), "empty_body", "an empty body"),
    ("only a byte order mark", _sent(BOM, JSON), "empty_body", "an empty body"),
]


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("answer", "error_class", "expected"), [found[1:] for found in CAUSES], ids=[found[0] for found in CAUSES]
)
async def test_what_a_body_is_instead(
    store: Store, provider: Provider, sql: asyncpg.Connection, answer: Answer, error_class: str, expected: str
) -> None:
    """The message about a body that is no list names the cause. HTML is never a list."""
    provider.checkpoints[JOB] = answer
    await sync(store, provider)
    job_failure = await _failure(sql)
    assert (error_class, expected) == job_failure
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
