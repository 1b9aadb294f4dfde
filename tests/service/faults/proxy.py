"""A TCP proxy of the tests' own: it passes, delays, swallows, resets, cuts, or refuses connections."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

_RESET = struct.pack("ii", 1, 0)


class _Connection:
    """The two ends of one connection, and what befell it."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self.ends = ends
        self.mute = False
        self.left: float = float("inf")

    def reset(self) -> None:
        for end in self.ends:
            peer = end.get_extra_info("socket")
            if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
                with suppress(OSError):  # it is closed already
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


class Proxy:
    """Stands before a PostgreSQL server. `url` is the server's, by way of the proxy; the attributes break it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        folder = parse_qs(parts.query).get("host", [""])[0]
        self._target = f"{folder}/.s.PGSQL.5432" if folder else (parts.hostname or "", parts.port or 5432)
        self._path = parts.path
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.latency: Callable[[bytes], float] | None = None
        """Seconds that a chunk takes longer."""
        self.swallows = False
        """A black hole: bytes are acknowledged and vanish. A connection that lost some stays mute for ever."""
        self.cut_at: bytes | None = None
        """An answer with these bytes is not delivered: the connection is reset instead."""
        self.cut_after: Callable[[], float] | None = None
        """How many bytes, both ways, a new connection carries before it is reset."""
        self.cuts = 0
        """How many connections were cut."""

    @property
    def url(self) -> str:
        """The database's URL, through the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self._port}{self._path}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Reset every connection, and take no more."""
        if self._server is not None:
            self._server.close()
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for connection in self._connections:
            connection.reset()

    async def _serve(self, asker: asyncio.StreamReader, to_asker: asyncio.StreamWriter) -> None:
        try:
            opened = (
                asyncio.open_unix_connection(self._target)
                if isinstance(self._target, str)
                else asyncio.open_connection(*self._target)
            )
            server, to_server = await opened
        except OSError:
            _Connection(to_asker).reset()
            return
        connection = _Connection(to_asker, to_server)
        if self.cut_after is not None:
            connection.left = self.cut_after()
        self._connections.add(connection)
        pumps = [
            asyncio.ensure_future(self._pump(asker, to_server, connection, answers=False)),
            asyncio.ensure_future(self._pump(server, to_asker, connection, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in connection.ends:
                end.close()
            self._connections.discard(connection)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: _Connection, *, answers: bool
    ) -> None:
        tail = b""
        while chunk := await source.read(65536):
            if self.latency is not None:
                await asyncio.sleep(self.latency(chunk))
            connection.mute = connection.mute or self.swallows
            if connection.mute:
                continue
            connection.left -= len(chunk)
            if connection.left < 0 or (answers and self.cut_at is not None and self.cut_at in tail + chunk):
                self.cuts += 1
                connection.reset()
                return
            tail = chunk[-64:]
            sink.write(chunk)
            await sink.drain()
