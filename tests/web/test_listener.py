"""The status port takes a bounded number of connections, each for a bounded time."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import aiohttp
import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.web import listener, server
from support.verbs import get
from support.waiting import eventually


@pytest.fixture
async def page(port: int, store: Store) -> AsyncIterator[int]:
    """Yield the number of a status port that is served."""
    async with server.serve("127.0.0.1", port, list, store, ["test"]):
        yield port


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections expire soon."""
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.2)


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process have few file descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def silent(
    port: int, count: int, path: str = "/livez"
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Open connections that send only the beginning of a request."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in opened:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: local".encode())
    yield opened
    for _, writer in opened:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the server has closed a connection."""
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        return True


async def assert_answers(port: int) -> None:
    """Send a request on a connection of its own. Raises AssertionError if it is not answered."""
    try:
        assert (200, "ok\n") == await get(port, "/livez")
    except (OSError, aiohttp.ClientError):
        raise AssertionError("the connection was closed") from None


async def test_more_connections_than_the_limit(page: int) -> None:
    """Connections beyond the limit are closed at once, and a place that becomes free is used again."""
    async with silent(page, listener.CONNECTIONS) as opened:
        async with silent(page, 1) as [(refused, _)]:
            assert await is_closed(refused)
        with pytest.raises(AssertionError):
            await assert_answers(page)
        opened[0][1].close()
        await eventually(partial(assert_answers, page))


@pytest.mark.usefixtures("short")
async def test_a_request_that_does_not_end(page: int) -> None:
    """A connection that does not send its whole request is closed after some seconds, and makes room for others."""
    async with silent(page, listener.CONNECTIONS) as opened:
        assert all([await is_closed(reader) for reader, _ in opened])
        assert (200, "ok\n") == await get(page, "/livez")


async def test_a_response_that_is_not_read(port: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not read its response is closed after some seconds, and makes room for others."""
    monkeypatch.setattr(listener, "CONNECTIONS", 1)
    monkeypatch.setattr(listener, "RESPONSE_SECONDS", 0.2)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def problems() -> list[str]:
        asked.set()
        return ["x" * 20_000_000]  # more than the buffers of the system take

    async with server.serve("127.0.0.1", port, problems, store, ["test"]):
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asked.wait()
            await eventually(partial(assert_answers, port), seconds=10)


@pytest.mark.usefixtures("few_files")
async def test_few_file_descriptors(port: int, store: Store) -> None:
    """A quarter of the file descriptors is used at most, so that polls and the database have some left."""
    async with server.serve("127.0.0.1", port, list, store, ["test"]), silent(port, 17) as opened:
        assert await is_closed(opened[16][0])


async def test_a_response_closes_its_connection(page: int) -> None:
    """A client that stays connected takes nobody's place: each connection serves one request."""
    async with silent(page, 1) as [(reader, writer)]:
        writer.write(b"host\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
    assert b"connection: close" in answer.lower()
    assert answer.endswith(b"ok\n")


async def test_a_bad_request_is_not_logged(page: int, caplog: pytest.LogCaptureFixture) -> None:
    """A request line that is too long, or no HTTP, is refused and not logged: any client could fill the log."""
    for request in (
        b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 9000),
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", page)
        writer.write(request)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert [] == [record.getMessage() for record in caplog.records if record.name == "aiohttp.server"]


@pytest.mark.usefixtures("short")
async def test_a_slow_response(page: int, sql: asyncpg.Connection) -> None:
    """A request that was sent in time is answered, even if the answer takes longer than sending may take."""
    async with silent(page, 1, "/") as [(reader, writer)]:
        async with sql.transaction():
            await sql.execute("lock table checkpointd.sources in access exclusive mode")
            writer.write(b"host\r\n\r\n")
            await asyncio.sleep(2 * listener.REQUEST_SECONDS)  # the time that the database takes
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 OK")
