"""Limit the interim responses, such as `100 Continue`, that a server or a proxy may send before its response.

HTTP permits any number, and aiohttp reads them until the request times out: a server that sends them without end would
keep a processor busy for that long.
"""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

MOST_INTERIM_RESPONSES: Final = 16
"""The most interim responses to one request. More than one or two are not usual."""


class InterimResponsesError(aiohttp.ClientError):
    """There were more than MOST_INTERIM_RESPONSES."""


class _Protocol(ResponseHandler):
    """A connection that fails after too many interim responses."""

    _interim_responses = 0

    async def read(self) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        message, body = await super().read()
        is_interim = message.code < HTTPStatus.OK and message.code != HTTPStatus.SWITCHING_PROTOCOLS
        self._interim_responses = self._interim_responses + 1 if is_interim else 0
        if self._interim_responses > MOST_INTERIM_RESPONSES:
            raise InterimResponsesError(f"more than {MOST_INTERIM_RESPONSES} interim responses (HTTP 1xx)")
        return message, body


def limit_interim_responses(connector: aiohttp.TCPConnector) -> None:
    """Make the connections of a connector fail after too many interim responses."""
    factory = partial(_Protocol, asyncio.get_running_loop())
    connector._factory = factory  # type: ignore[assignment]  # noqa: SLF001  # there is no other way
