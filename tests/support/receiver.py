"""A receiver of webhooks: a real HTTP server on loopback, whose answers a test chooses."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

from aiohttp import web

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Received(NamedTuple):
    """A request: its path, its headers in lower case, its body, and its connection."""

    path: str
    headers: dict[str, str]
    body: bytes
    transport: asyncio.Transport

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.headers["webhook-id"]

    @property
    def message(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Receiver:
    """Records the requests to it. Each is answered by `answer`, which is 204 by default."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Awaitable[web.StreamResponse]] | None = None
        self.before_reading: Callable[[], Awaitable[None]] | None = None
        self.url = self.origin = ""
        self.in_flight = 0
        self.most_in_flight = 0

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert isinstance(request.transport, asyncio.Transport)
        if self.before_reading:
            await self.before_reading()
        received = Received(request.path, headers, await request.read(), request.transport)
        self.received.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.answer(received) if self.answer else web.Response(status=204)
        finally:
            self.in_flight -= 1

    def answer_once(self, *statuses: int, **headers: str) -> None:
        """Answer the next requests with these statuses and headers, and the following ones with 204."""
        left = list(statuses)
        given = {name.replace("_", "-"): value for name, value in headers.items()}

        async def answer(_: Received) -> web.StreamResponse:
            return web.Response(status=left.pop(0), headers=given) if left else web.Response(status=204)

        self.answer = answer

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self._start(0)
        return self

    async def _start(self, port: int) -> None:
        application = web.Application()
        application.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self._port = self._runner.addresses[0][1]
        self.origin = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.origin}/hook"

    async def restart(self, seconds: float = 0) -> None:
        """Abort all connections, and listen on the same port again after so many seconds."""
        await self.stop()
        await asyncio.sleep(seconds)
        await self._start(self._port)

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening, and abort all connections, as if the process was killed."""
        for site in list(self._runner.sites):
            await site.stop()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport:
                connection.transport.abort()
        await self._runner.cleanup()
