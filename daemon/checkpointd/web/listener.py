"""Listen on the status port: a bounded number of connections, each for a bounded time.

Polls and the database need file descriptors, too. So connections beyond the limit are closed at once, and one that
does not send its request, or does not read the response, is closed after a few seconds.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

CONNECTIONS: Final = 32
"""The most connections at the same time. A quarter of the process's file descriptors is used at most."""

REQUEST_SECONDS: Final = 2.0
"""How long a client may take to send a request."""

RESPONSE_SECONDS: Final = 3.0
"""How long after that the connection lasts: the database may take two seconds for a page (server.py), and the client
reads the response in the rest. Each response closes its connection."""

BACKLOG: Final = 8
"""Connections that are accepted at the same time. For this moment each has a file descriptor, even if it is refused."""

Protocol = asyncio.Protocol


@asynccontextmanager
async def listen(create_handler: Callable[[], Any], host: str, port: int) -> AsyncIterator[list[tuple[str, int]]]:
    """Let `create_handler()` handle each connection. Yields the addresses. Raises OSError if it cannot listen."""
    loop = asyncio.get_running_loop()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = CONNECTIONS if files == resource.RLIM_INFINITY else max(min(CONNECTIONS, files // 4), 1)
    connections: set[_Connection] = set()

    def connect() -> Protocol:
        return _Connection(create_handler(), connections) if len(connections) < limit else _Refusal()

    server = await loop.create_server(connect, host, port, backlog=BACKLOG)
    try:
        yield [socket.getsockname()[:2] for socket in server.sockets]
    finally:
        server.close()


class _Refusal(Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.abort()


class _Connection(Protocol):
    """Passes everything on to the handler of a connection, and closes it when its time is over."""

    def __init__(self, handler: Any, connections: "set[_Connection]") -> None:  # noqa: ANN401  # aiohttp's handler
        self._handler = handler
        self._connections = connections
        self._tail: bytes | None = b""
        """The last bytes of the request, or None after its end."""
        connections.add(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._expire_in(REQUEST_SECONDS)
        self._handler.connection_made(transport)

    def _expire_in(self, seconds: float) -> None:
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expiry.cancel()
        self._connections.discard(self)
        self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._tail is not None:
            self._tail = self._tail[-3:] + data
            if b"\r\n\r\n" in self._tail:  # the end of the headers; a GET request has no body
                self._tail = None
                self._expiry.cancel()
                self._expire_in(RESPONSE_SECONDS)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return bool(self._handler.eof_received())

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()
