"""A TCP proxy in front of PostgreSQL that delays, slows, freezes, drops, resets, cuts or refuses connections."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

_RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which a close sends RST."""


_SSL_REQUEST = 80877103
SAVE_OF_POLLS = (b"with held as materialized", b"call checkpointd.save_polls", b"call checkpointd.save_quiet_polls")
SAVE_OF_JOB_RECORDS = (b"call checkpointd.save_job_records",)
"""What the statements of a save contain: the procedures, and the statement that reads the stored checkpoints."""


class _Messages:
    """Splits what a client sends into the messages of PostgreSQL's protocol."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_started = False
        self._statements = dict[bytes, bytes]()
        """The texts of the prepared statements, by name."""
        self._statement = b""

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """Return the messages that are complete now, and the statement of each."""
        self._rest += chunk
        messages = []
        while (size := self._size()) is not None and len(self._rest) >= size:
            message, self._rest = self._rest[:size], self._rest[size:]
            messages.append((message, self._statement_of(message)))
        return messages

    def _size(self) -> int | None:
        start = 1 if self._is_started else 0  # the first messages of a connection have no type
        if len(self._rest) < start + 4:
            return None
        return start + int.from_bytes(self._rest[start : start + 4], "big")

    def _statement_of(self, message: bytes) -> bytes:
        if not self._is_started:
            self._is_started = int.from_bytes(message[4:8], "big") != _SSL_REQUEST
            return b""
        kind, content = message[:1], message[5:]
        if kind == b"P":  # Parse: the name of the statement, its text
            name, self._statement = content.split(b"\0")[:2]
            self._statements[name] = self._statement
        elif kind == b"B":  # Bind: the name of the portal, the name of the statement
            self._statement = self._statements.get(content.split(b"\0", 2)[1], b"")
        return self._statement if kind in b"PDBES" else b""


class _Connection:
    """The two ends of one connection, and its state."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self.ends = ends
        self.is_mute = False
        self.messages = _Messages()
        self.bytes_left: float = float("inf")

    def reset(self) -> None:
        for end in self.ends:
            peer = end.get_extra_info("socket")
            if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
                with suppress(OSError):  # it is closed already
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


class Proxy:
    """A proxy in front of a PostgreSQL server. `url` leads through it; its attributes set what goes wrong."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        folder = parse_qs(parts.query).get("host", [""])[0]
        self._target = f"{folder}/.s.PGSQL.5432" if folder else (parts.hostname or "", parts.port or 5432)
        self._path = parts.path
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.latency: Callable[[bytes], float] | None = None
        """Returns the seconds by which a chunk is delayed."""
        self.is_black_hole = False
        """True if bytes are acknowledged and dropped. A connection that has dropped bytes drops all later ones, too."""
        self.cut_at: bytes | None = None
        """An answer with these bytes is not delivered: its connection is reset instead."""
        self.cut_after: Callable[[], float] | None = None
        """Returns how many bytes a new connection carries, both ways together, before it is reset."""
        self.bytes_per_second: float | None = None
        """How fast each direction of a connection is, or None for no limit."""
        self.freeze_in: Sequence[bytes] = ()
        """Texts of which the statements of a save have one each."""
        self.freeze_at: int | None = None
        """The number of a message of a save, counted from now, of which only the first half is passed on. What the
        client sends then waits until thaw()."""
        self.frozen = asyncio.Event()
        """Set when half of that message was passed on."""
        self._thawed = asyncio.Event()
        self.cuts = 0
        """How many connections were cut."""

    @property
    def url(self) -> str:
        """The URL of the database through the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self._port}{self._path}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()

    async def listen(self) -> None:
        """Accept connections, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Reset every connection, and accept no more."""
        if self._server is not None:
            self._server.close()
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for connection in self._connections:
            connection.reset()

    def thaw(self) -> None:
        """Pass on the rest, after freeze_at."""
        self.frozen.clear()
        self._thawed.set()

    async def _unfrozen(self, messages: list[tuple[bytes, bytes]], sink: asyncio.StreamWriter) -> bytes:
        """Return what to pass on of the messages of a client, and wait at the message freeze_at."""
        passed = b""
        for message, statement in messages:
            half = 0
            if self.freeze_at is not None and any(part in statement for part in self.freeze_in):
                self.freeze_at -= 1
                if self.freeze_at == 0:
                    self.freeze_at, half = None, len(message) // 2
                    sink.write(passed + message[:half])
                    await sink.drain()
                    passed = b""
                    self._thawed.clear()
                    self.frozen.set()
                    await self._thawed.wait()
            passed += message[half:]
        return passed

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, str):
                server, to_server = await asyncio.open_unix_connection(self._target)
            else:
                server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            _Connection(to_client).reset()
            return
        connection = _Connection(to_client, to_server)
        if self.cut_after is not None:
            connection.bytes_left = self.cut_after()
        self._connections.add(connection)
        pumps = [
            asyncio.ensure_future(self._pump(client, to_server, connection, is_answer=False)),
            asyncio.ensure_future(self._pump(server, to_client, connection, is_answer=True)),
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
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: _Connection, *, is_answer: bool
    ) -> None:
        tail = b""
        while chunk := await source.read(65536):
            if self.latency is not None:
                await asyncio.sleep(self.latency(chunk))  # the latency that the test has set
            if self.bytes_per_second is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_second)  # the time that a slow line takes
            connection.is_mute = connection.is_mute or self.is_black_hole
            if connection.is_mute:
                continue
            connection.bytes_left -= len(chunk)
            is_cut = is_answer and self.cut_at is not None and self.cut_at in tail + chunk
            if is_cut or connection.bytes_left < 0:
                self.cuts += 1
                connection.reset()
                return
            tail = chunk[-64:]
            sink.write(chunk if is_answer else await self._unfrozen(connection.messages.feed(chunk), sink))
            await sink.drain()
