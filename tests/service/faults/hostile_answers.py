"""Answers of a hostile provider: every page that is no page, and pages with items that no column can hold."""

import asyncio
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from support.provider import Answer, body, checkpoint, error, raw
from support.spoilt import FAULTS

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"

SOURCE_WIDE = {"401", "429", "429 without quota"}
"""The spoilt forms after which the whole source pauses. They have plays of their own in test_provider.py."""


async def _too_late(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(10)  # longer than the request timeout of 1 s
    return web.Response()


async def _drip(request: web.Request) -> web.StreamResponse:
    """Send one byte every 0.3 s, which never exceeds a limit on the time between two bytes."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    with suppress(ConnectionResetError):  # the daemon has given up
        await response.prepare(request)
        for byte in b'{"object": "list", "data": [' + b" " * 100:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.3)  # the pace of the drip
    return response


def _gzipped(good: bytes, keep: float) -> web.Response:
    packed = gzip.compress(good)
    return web.Response(
        body=packed[: int(len(packed) * keep)],
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )


PAGES: dict[str, Callable[[bytes], Answer]] = {
    **{name: fault.spoil for name, fault in FAULTS.items() if name not in SOURCE_WIDE},
    "reset in the body": lambda good: raw(HEAD + good[:100], reset=True),
    "closed in the body": lambda good: raw(HEAD + good[:100]),
    "closed without an answer": lambda _: raw(b""),
    "no HTTP": lambda _: raw(b"+OK ready\r\n\r\n"),
    "endless header": lambda _: raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "too late": lambda _: _too_late,
    "drip": lambda _: _drip,
    "cut gzip": lambda good: _gzipped(good, 0.5),
    "gzip bomb": lambda _: _gzipped(b"[" + b" " * 50_000_000, 1),
    "body too large": lambda good: body(good[:-1] + b" " * 9_000_000 + b"}"),
    "cut UTF-16": lambda good: body(good.decode().encode("utf-16")[:-1]),  # if it is whole, it is read
    "junk after the page": lambda good: body(good + b"}"),
    "two pages": lambda good: body(good + good),
    "data given twice": lambda good: body(good[:-1] + b', "data": []}'),
    "has_more NaN": lambda good: body(good[:-1] + b', "has_more": NaN}'),
    "nested too deeply": lambda _: body("[" * 100_000),
    "409": lambda _: error(409, x_should_retry="false"),
    "410": lambda _: error(410),
    "418 in text": lambda _: body("teapot", "text/plain", 418),
    "522 in HTML": lambda _: body("<html>522</html>", "text/html", 522),
}
"""Functions that make, from a good page, an answer that is no page."""


def _item(number: int, name: str, **fields: Any) -> dict[str, Any]:
    """Return an item of the step `number`, with other values in some fields. A field given as ... is left out."""
    item = {**checkpoint(number, name), "id": f"ftckpt_{name}_hostile", **fields}
    return {key: value for key, value in item.items() if value is not ...}


_NUMBER = 12345678
"""A number that is replaced by JSON which Python does not write."""

FIELDS: dict[str, dict[str, Any]] = {
    "no id": {"id": ...},
    "empty id": {"id": ""},
    "id null": {"id": None},
    "id a number": {"id": 7},
    "long id": {"id": "x" * 300},
    "NUL in the id": {"id": "ftckpt_\0"},
    "surrogate in the id": {"id": "ftckpt_\ud800"},
    "another type": {"object": "fine_tuning.job.event"},
    "another job": {"fine_tuning_job_id": "ftjob-other"},
    "no job": {"fine_tuning_job_id": ...},
    "step 1.5": {"step_number": 1.5},
    "step true": {"step_number": True},
    "step as text": {"step_number": "7"},
    "step 2^63": {"step_number": 2**63},
    "step -1": {"step_number": -1},
    "no step": {"step_number": ...},
    "created 0": {"created_at": 0},
    "created in milliseconds": {"created_at": 1_721_764_800_000},
    "created 2^62": {"created_at": 2**62},
    "created as text": {"created_at": "yesterday"},
    "NUL in the model": {"fine_tuned_model_checkpoint": "ft:\0"},
    "surrogate in the model": {"fine_tuned_model_checkpoint": "ft:\udfff"},
    "metrics null": {"metrics": None},
    "metrics empty": {"metrics": {}},
    "metrics a text": {"metrics": "0.1"},
    "metric true": {"metrics": {"step": 1, "train_loss": True}},
    "metric as text": {"metrics": {"step": 1, "train_loss": "0.1"}},
    "long name of a metric": {"metrics": {"step": 1, "x" * 1000: 1}},
    "NUL in the name of a metric": {"metrics": {"step": 1, "\0": 1}},
    "a thousand metrics": {"metrics": {f"m{n}": n for n in range(1000)}},
    "300 KiB": {"extra": "x" * 300_000},
}
"""Other values of one field."""

NUMBERS = ("NaN", "-Infinity", "1e400", "-0.0", "1" * 320, "1.0", '{"a":' * 70 + "1" + "}" * 70)
"""Text of JSON that is put in the place of a metric, and of the step."""

ITEMS: dict[str, Callable[[str], bytes]] = {
    **{
        what: lambda name, fields=fields: json.dumps(_item(9000, name, **fields)).encode()
        for what, fields in FIELDS.items()
    },
    **{
        f"metric {number[:9]}": lambda name, number=number: _with_number(
            _item(9000, name, metrics={"step": 9000, "train_loss": _NUMBER}), number
        )
        for number in NUMBERS
    },
    **{
        f"step {number[:9]}": lambda name, number=number: _with_number(_item(9000, name, step_number=_NUMBER), number)
        for number in NUMBERS
    },
    **{
        what: lambda _, text=text: text
        for what, text in {
            "null": b"null",
            "a number": b"17",
            "an array": b"[[]]",
            "an empty object": b"{}",
            "not UTF-8": b'"\xff"',
        }.items()
    },
    "a field given twice": lambda name: json.dumps(_item(9000, name)).encode()[:-1] + b', "step_number": 9001}',
}
"""Functions that make, for a job, an item that is put at the top of a page, which stays a page."""


def _with_number(item: dict[str, Any], number: str) -> bytes:
    return json.dumps(item).encode().replace(str(_NUMBER).encode(), number.encode())
