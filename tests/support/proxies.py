"""HTTP proxies and TLS servers on loopback: real ones, which record what they are asked."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from yarl import URL

from support.servers import self_signed


class Asked(NamedTuple):
    """A request to a proxy: its method, its target, and its headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class Proxy:
    """A proxy that tunnels (CONNECT) and forwards (http) to this machine, whatever the host is named."""

    def __init__(self, answer: bytes = b"", authorization: str = "") -> None:
        """With `answer` it sends these bytes to every request; it accepts only requests with `authorization`."""
        self.asked: list[Asked] = []
        self.url = ""
        self._answer = answer
        self._authorization = authorization

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, UnicodeDecodeError):
            start = (await reader.readexactly(1)).decode()
            if not start.isalpha():  # TLS, to a proxy without it
                raise ConnectionError
            head = start + (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            self.asked.append(Asked(method, target, headers))
            if self._authorization and headers.get("proxy-authorization") != self._authorization:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif self._answer:
                writer.write(self._answer)
            else:
                await self._pass_on(method, target, head, reader, writer)
        writer.close()

    async def _pass_on(
        self, method: str, target: str, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        url = URL(f"//{target}" if method == "CONNECT" else target)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", url.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(head.replace(target, url.raw_path_qs, 1).encode())
        await _join(reader, writer, far_reader, far_writer)


@asynccontextmanager
async def proxy(
    *, tls: ssl.SSLContext | None = None, answer: bytes = b"", authorization: str = ""
) -> AsyncIterator[Proxy]:
    """Run a proxy. Its URL begins with https if `tls` is given."""
    made = Proxy(answer, authorization)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls) as server:
        made.url = f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
        yield made


@asynccontextmanager
async def with_tls(url: str, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """Serve an http URL of this machine with TLS. Yields the https URL, with the host `localhost`."""
    inner = URL(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, *await asyncio.open_connection(inner.host, inner.port))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield str(inner.with_scheme("https").with_host("localhost").with_port(server.sockets[0].getsockname()[1]))


def trusted(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context for `localhost`, and the file that a client must name in SSL_CERT_FILE to trust it."""
    certificate, key = self_signed(folder, "localhost", "-nodes", "-addext", "subjectAltName=DNS:localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, certificate


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Copy both directions until both have ended."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
