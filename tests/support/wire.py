"""A wire to PostgreSQL that loses answers, so that the client never hears of what the server did, or falls silent."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

COMMIT = 0


class Wire:
    """A proxy on a Unix socket, which leads to the database of `url` until it is told to cut."""

    def __init__(self, url: str) -> None:
        self._folder = TemporaryDirectory(prefix="wire-")
        parts = urlsplit(url)
        self._host = parse_qs(parts.query).get("host", [parts.hostname])[0]
        self._port = parts.port or 5432
        self._socket = Path(self._folder.name) / ".s.PGSQL.5432"
        self._left: int | None = None
        self._freezes: int | None = None
        self.frozen = asyncio.Event()
        self.url = f"postgresql://postgres@{parts.path}?host={quote(self._folder.name)}&port=5432"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._folder.cleanup()

    def cut(self, message: int) -> None:
        """Lose the answer to the message with this number, counted from now, or (COMMIT) to the next commit."""
        self._left = message or -1

    def freeze(self, message: int) -> None:
        """From the message with this number on, counted from now, nothing passes any more; the connection stays."""
        self._freezes = message

    def mend(self) -> None:
        """Cut no more."""
        self._left = None

    def _loses(self, message: bytes) -> bool:
        if self._left is None:
            return False
        self._left -= self._left > 0
        if self._left == 0 or (self._left < 0 and b"COMMIT" in message):
            self._left = None
            return True
        return False

    def _swallows(self) -> bool:
        if self._freezes is not None:
            self._freezes -= 1
            if self._freezes <= 0:
                self.frozen.set()
        return self.frozen.is_set()

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self._host and self._host.startswith("/"):
            server, to_server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            server, to_server = await asyncio.open_connection(self._host, self._port)
        lost = False

        async def ask() -> None:
            nonlocal lost
            while message := await client.read(65536):
                lost = self._loses(message)
                if not self._swallows():
                    to_server.write(message)

        async def answer() -> None:
            while (message := await server.read(65536)) and not lost:
                if not self.frozen.is_set():
                    to_client.write(message)
            if self.frozen.is_set():  # the client does not hear either that its server has hung up
                await asyncio.Event().wait()

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        await asyncio.wait(ways, return_when="FIRST_COMPLETED")
        to_client.transport.abort()
        to_server.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
