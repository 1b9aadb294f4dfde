"""How a connection to PostgreSQL comes about, and a transaction on it: every wait of either has an end."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from checkpointd.postgres import dsn, queries
from checkpointd.postgres.dsn import Dsn, Host
from checkpointd.postgres.errors import DRIVER_ERRORS, driver_errors_wrapped, explain

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Connect = Callable[[], Awaitable[asyncpg.Connection]]

CONNECT_SECONDS: Final = 4.0
STATEMENT_SECONDS: Final = 15.0
TRANSACTION_SECONDS: Final = 12.0
"""Nobody holds rows, or the place at the feed, for longer; of ten thousand checkpoints a save takes some tenths."""

LOCK_RETRY_DELAYS: Final = (0.02, 0.1, 0.3)
"""Seconds between attempts at a row that another transaction has locked; our own transactions are shorter."""

_SESSION: Final = {
    "application_name": "checkpointd",
    "timezone": "UTC",
    "search_path": "pg_catalog",
    "statement_timeout": "15s",
    "lock_timeout": "3s",
    # A client that froze inside a transaction, or is cut off, must not hold its locks.
    "idle_in_transaction_session_timeout": "3s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
TRANSACTION_TIMEOUT: Final = f"{TRANSACTION_SECONDS:g}s"

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}


async def connect(url: str, *, pooler: bool = False) -> asyncpg.Connection:
    """Open a connection whose every wait ends: TCP notices a dead peer within 20 s, statements end after 15 s.

    Of several hosts all are tried at once, so that one that is cut off holds up nobody. With `pooler`, nothing is asked
    of a session that another client may have next.

    Raises one of DRIVER_ERRORS, or DsnError.
    """
    where = dsn.parse(url)
    if len(where.hosts) < 2:
        return await _connect(where, *where.hosts, pooler=pooler)
    attempts = {asyncio.create_task(_connect(where, host, pooler=pooler)): host for host in where.hosts}
    pending, failures, found = set(attempts), dict[Host, Exception](), None
    try:
        while pending and found is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if isinstance(error := attempt.exception(), DRIVER_ERRORS):
                    failures[attempts[attempt]] = error
                elif found is None:
                    found = await attempt
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(lambda a: _discard(a, found))
    if found is None:
        told = "; ".join(explain(failures[host]) for host in where.hosts)
        raise ConnectionError(f"no host is {where.target_session_attrs}: {told}")
    return found


def _discard(attempt: asyncio.Task[asyncpg.Connection], chosen: asyncpg.Connection | None) -> None:
    """Close a connection that came too late."""
    if not attempt.cancelled() and attempt.exception() is None and attempt.result() is not chosen:
        attempt.result().terminate()


async def _connect(where: Dsn, host: Host | None = None, *, pooler: bool) -> asyncpg.Connection:
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            where.driver_url,
            host=host.name if host else None,
            port=host.port if host else None,
            ssl=where.tls(host) if host else where.sslmode,
            target_session_attrs=SessionAttribute(where.target_session_attrs),
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=0 if pooler else 100,
            max_cached_statement_lifetime=0,
            server_settings={} if pooler else _SESSION,
        )
        if not pooler:
            await _limit_transactions(connection)
    except DRIVER_ERRORS as e:
        if host:
            e.add_note(str(host))  # for explain()
        raise
    transport: asyncio.BaseTransport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001  # no other way
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


async def _limit_transactions(connection: asyncpg.Connection) -> None:
    """Set what older servers do not know, and would refuse a connection for."""
    try:
        await connection.execute(queries.LIMIT_TRANSACTIONS, TRANSACTION_TIMEOUT, timeout=CONNECT_SECONDS)
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def transaction(connection: Connection, *, keep: bool = True) -> AsyncIterator[None]:
    """Commit what the block does, or roll it back where it fails or `keep` is false, all within TRANSACTION_SECONDS.

    Cut off, it asks the server for nothing: whoever lent the connection cuts that, too.
    """
    async with asyncio.timeout(TRANSACTION_SECONDS):
        doing = connection.transaction()
        await doing.start()
        try:
            yield
        except (asyncio.CancelledError, TimeoutError):
            raise
        except BaseException:
            await doing.rollback()
            raise
        await (doing.commit() if keep else doing.rollback())


def database_deadline_in(seconds: float | None) -> AbstractAsyncContextManager[asyncio.Timeout]:
    """Limit work with the database to so many seconds, or None for no limit, as database_deadline() does."""
    return database_deadline(None if seconds is None else asyncio.get_running_loop().time() + seconds)


@asynccontextmanager
async def database_deadline(at: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Limit work with the database until `at` on the event loop's clock, or None for no limit.

    Raises DatabaseUnavailableError when the deadline passes.
    """
    with driver_errors_wrapped():
        async with asyncio.timeout_at(at) as limit:
            yield limit
