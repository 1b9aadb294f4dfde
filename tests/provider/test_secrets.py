"""No failure and no exception shows a key, and every message is one short line."""

import asyncio
import json
import time
import traceback
from collections.abc import Callable

import pytest

from checkpointd.provider.client import Client
from checkpointd.provider.http import ApiError, Limits, open_session
from support.lists import HEADERS, KEY, ListCheckpoints, http_200, message, silence
from support.provider import JOB, Answer, Provider, body, error, raw

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
    lambda key: error(500, "x", f"it contains '{key[4:13]}' and ends with {key[-9:]}"),
    lambda key: error(422, "x", f"header: {key[3:12].upper()}…"),
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
async def test_no_failure_shows_the_key(
    provider: Provider, list_checkpoints: ListCheckpoints, echo: Callable[[str], Answer], key: str
) -> None:
    """Wherever a provider repeats the key, the failure shows no eight characters of it in a row."""
    provider.checkpoints[JOB] = echo(key)
    shown = repr(await list_checkpoints(headers={"Authorization": f"Bearer {key}"}))
    assert "failure=None" not in shown
    parts = {key[start : start + 8].lower() for start in range(len(key) - 7)}
    assert not [part for part in parts if part in shown.lower()]


@pytest.mark.parametrize("masked", ["sk-abc***xyz", "sk-a***b", "abcd********wxyz", "Bearer abc.def"])
async def test_no_failure_shows_a_masked_key(
    provider: Provider, list_checkpoints: ListCheckpoints, masked: str
) -> None:
    """A key that the provider masked, or a key that is not known, is removed."""
    provider.checkpoints[JOB] = error(400, None, f"Incorrect API key provided: {masked}.")
    found = message(await list_checkpoints())
    assert found.startswith("HTTP 400 invalid_request_error Incorrect API key provided: [secret]")
    assert masked not in found


LONG_KEY = "sk-proj-Qwer7tyAsdf8ghZxcv9bn-Poiu6yTREW"


@pytest.mark.parametrize("status", [401, 403, 400, 200])
@pytest.mark.parametrize(
    "quoted",
    [
        f"{LONG_KEY[:4]}...{LONG_KEY[-4:]}",
        f"{LONG_KEY[:7]}\u2026{LONG_KEY[-4:]}",
        f"\u2022\u2022\u2022\u2022{LONG_KEY[-4:]}",
        f"xxxx{LONG_KEY[-4:]}",
        f"****{LONG_KEY[-6:]}",
        f"with the end '{LONG_KEY[-4:]}'",
        f"that contains {LONG_KEY[9:20]}",
        f"that contains {LONG_KEY[9:20].lower()}",
        f'"{LONG_KEY}"',
        f"{LONG_KEY[:20]} {LONG_KEY[20:]}",
    ],
)
async def test_no_failure_shows_a_part_of_the_key(
    provider: Provider, list_checkpoints: ListCheckpoints, status: int, quoted: str
) -> None:
    """No part of a key that an error about keys quotes is shown, however it is masked; the words around it are."""
    provider.checkpoints[JOB] = error(status, "invalid_api_key", f"Incorrect API key {quoted}, see the documents.")
    found = message(await list_checkpoints(headers={"Authorization": f"Bearer {LONG_KEY}"}))
    lower, key = found.lower(), LONG_KEY.lower()
    shown = [key[at : at + 4] for at in range(len(key) - 3) if key[at : at + 4] in lower]
    assert [] == shown, found
    assert "[secret]" in found
    assert "Incorrect API key" in found


SCOPES = "Missing scopes: api.fine_tuning.jobs.read"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            error(401, "invalid_api_key", "Incorrect API key provided: ab12"),
            "HTTP 401 invalid_api_key Incorrect API key provided: [secret]",
        ),
        (error(403, "insufficient_permissions", SCOPES), f"HTTP 403 insufficient_permissions {SCOPES}"),
        (error(403, None, f"sk-ab***yz: {SCOPES}"), f"HTTP 403 invalid_request_error [secret]: {SCOPES}"),
        (error(403, "denied", "of another project"), "HTTP 403 denied of another project"),
        (error(404, "not_found", "no such job"), "HTTP 404 not_found no such job"),
    ],
)
async def test_the_providers_message_is_repeated(
    provider: Provider, list_checkpoints: ListCheckpoints, answer: Answer, expected: str
) -> None:
    """The failure repeats the provider's message, such as a missing scope, without the parts of keys that it quotes."""
    provider.checkpoints[JOB] = answer
    assert expected == message(await list_checkpoints())


@pytest.mark.parametrize(
    "text",
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
        lambda text: error(400, None, text),
        lambda text: error(400, text),
        lambda text: body(json.dumps({"error": {"message": text}})),
    ],
)
async def test_a_failure_is_one_short_line(
    provider: Provider, list_checkpoints: ListCheckpoints, text: str, answer: Callable[[str], Answer]
) -> None:
    """A provider's message of any length and content becomes at most 200 printable characters, within seconds."""
    provider.checkpoints[JOB] = answer(text)
    started = time.monotonic()
    found = message(await list_checkpoints())
    assert (True, True) == (0 < len(found) <= 200, found.isprintable()), found
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "x", KEY),
        body("{}", f"text/{KEY}"),
        body(json.dumps({"error": {"message": KEY}})),
        raw(b"HTTP/1.1 abc OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000),
        raw(http_200(b"", b"Content-Length: 9")),
        raw(b"", reset=True),
        silence,
    ],
)
async def test_no_exception_contains_the_request(provider: Provider, answer: Answer) -> None:
    """Neither the exception nor its causes contain the key: in text, repr or attributes."""
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
