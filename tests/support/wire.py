"""A proxy to PostgreSQL that loses an answer after the server has done its work, or stops passing anything."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

SAVE = 0
"""In cut(): the next save, which is a call of a procedure."""
_SAVED = b"C\0\0\0\x09CALL\0"
"""The end of the answer to a call."""


class Wire:
    """A proxy on a Unix socket to the database of a URL. Use the attribute `url` to connect through it.

    A message here is what one read from the client returns, usually the messages of one call of the driver.
    """

    def __init__(self, url: str) -> None:
        self._folder = TemporaryDirectory(prefix="wire-")
        parts = urlsplit(url)
        self._host = parse_qs(parts.query).get("host", [parts.hostname])[0]
        self._port = parts.port or 5432
        self._socket = Path(self._folder.name) / ".s.PGSQL.5432"
        self._until_cut: int | None = None
        """Messages until the answer is lost; negative until the answer to the next save."""
        self._until_freeze: int | None = None
        self.frozen = asyncio.Event()
        """Set when nothing passes any more."""
        self.url = f"postgresql://postgres@{parts.path}?host={quote(self._folder.name)}&port=5432"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._folder.cleanup()

    def cut(self, message: int) -> None:
        """Lose the answer to the message with this number, counted from now, or to the next SAVE; then hang up."""
        self._until_cut = message or -1

    def freeze(self, message: int) -> None:
        """Pass nothing from the message with this number on, counted from now. The connection stays open."""
        self._until_freeze = message

    def mend(self) -> None:
        """Cancel cut(), if it had no effect yet."""
        self._until_cut = None

    def _is_cut_at(self, message: bytes, *, is_answer: bool) -> bool:
        if self._until_cut is None or is_answer != (self._until_cut < 0):
            return False
        self._until_cut -= 1
        if self._until_cut > 0 or (is_answer and _SAVED not in message):
            return False
        self._until_cut = None
        return True

    def _count_down_to_freeze(self) -> None:
        if self._until_freeze is not None:
            self._until_freeze -= 1
            if self._until_freeze <= 0:
                self.frozen.set()

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self._host and self._host.startswith("/"):
            server, to_server = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            server, to_server = await asyncio.open_connection(self._host, self._port)
        is_cut = False

        async def pass_requests() -> None:
            nonlocal is_cut
            while message := await client.read(65536):
                is_cut = is_cut or self._is_cut_at(message, is_answer=False)
                self._count_down_to_freeze()
                if not self.frozen.is_set():
                    to_server.write(message)

        async def pass_answers() -> None:
            while (message := await server.read(65536)) and not (is_cut or self._is_cut_at(message, is_answer=True)):
                if not self.frozen.is_set():
                    to_client.write(message)
            if self.frozen.is_set():  # the client must not notice that the server has hung up
                await asyncio.Event().wait()

        directions = [asyncio.create_task(pass_requests()), asyncio.create_task(pass_answers())]
        await asyncio.wait(directions, return_when="FIRST_COMPLETED")
        to_client.transport.abort()
        to_server.transport.abort()
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
