"""What the tests of the provider's client share: lists, answers, and what came of a listing."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.listing import RawListing
from checkpointd.domain.reading import RawItem
from support.provider import checkpoint, page

KEY = "canary.0123456789+/key=="
HEADERS = {"Authorization": f"Bearer {KEY}"}

ITEMS = [checkpoint(number) for number in range(25, 0, -1)]
LAST_PAGE = page(ITEMS[:1])
GOOD = page(ITEMS[:2]).body
assert isinstance(GOOD, bytes)

ListCheckpoints = Callable[..., Awaitable[RawListing]]
"""The fixture `list_checkpoints`."""


def raw_listing(*pages: Sequence[RawItem], failure: Failure | None = None) -> RawListing:
    """Return the listing of one request with these items on each page."""
    bodies = [b'{"data": [%b], "has_more": false}' % b",".join(items) for items in pages]
    return RawListing(list(pages), failure, 1, bodies=bodies)


def ids(listing: RawListing) -> list[str]:
    """Return the ids of all items."""
    return [json.loads(bytes(item))["id"] for items in listing.pages for item in items]


def failure_class(listing: RawListing) -> ErrorClass | None:
    """Return the class of the failure, or None if the listing is complete."""
    return listing.failure.error_class if listing.failure else None


def message(listing: RawListing) -> str:
    """Return the message of the failure."""
    assert listing.failure
    return listing.failure.message


def http_200(text: bytes, header: bytes = b"") -> bytes:
    """Return the bytes of an answer with status 200 and one more header."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + header + b"\r\n\r\n" + text


async def silence(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError
