"""Connections to PostgreSQL. Every wait has a limit.

Each end of a connection can fall silent without closing it: the server hangs, the client's process is suspended, or the
network between them is cut off. So the client limits how long it waits for the server. And no session holds locks while
its server waits for the client, except in a migration: each statement that locks rows is a transaction of its own. The
large ones, which save, end it themselves (sql/views/saves.sql). The others end with the message Sync, which the driver
sends together with them. The limits, and why they have these values:

- A host accepts a TCP connection within 4 s (addresses.TCP_SECONDS), or it is down. Connecting takes 16 s at most
  (DATABASE_CONNECT_SECONDS). TCP, TLS and the login with a password take seven round trips, so a round trip may take
  2 s. Taking a connection from the pool takes 21 s at most (store.ACQUIRE_SECONDS), so the other limits are reached
  first, and their errors name the host. The two further round trips of it are those of lock_table.py.
- A statement takes 15 s at most (STATEMENT_SECONDS, on both sides). Even a save of 10,000 checkpoints takes less than a
  second, so a statement that takes 15 s hangs, or the line is too slow for so much at once: see
  polling/save_queue.py.
- On the server, `idle_in_transaction_session_timeout` is 3 s, for readers and migrations: no other transaction consists
  of several statements.
- On the server, `lock_timeout` is 3 s, because a session that holds a lock for longer hangs. The statement that waits
  for the lock fails and is repeated later.
- TCP keepalive detects that the other end has disappeared, also while no statement runs. A connection is probed when it
  was silent for 15 s. Without an answer the client gives up after 20 s, and the server after 30 s. Both are longer
  than the limit of a statement, which is therefore reached first.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from math import inf
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from checkpointd.postgres import dsn
from checkpointd.postgres.addresses import (
    ADDRESS_SECONDS,
    LoopToAddress,
    NoConnectionError,
    addresses,
    first_connection,
)
from checkpointd.postgres.dsn import Dsn, Host
from checkpointd.postgres.errors import DRIVER_ERRORS, driver_errors_wrapped, explain, require_utf8

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Connect = Callable[[], Awaitable[asyncpg.Connection]]

DATABASE_CONNECT_SECONDS: Final = 16.0
STATEMENT_SECONDS: Final = 15.0

LOCK_RETRY_DELAYS: Final = (0.02, 0.1, 0.3)
"""Seconds between attempts at a row that another transaction has locked. Transactions of checkpointd are shorter."""

_SESSION_SETTINGS: Final = {
    "timezone": "UTC",
    "search_path": "pg_catalog",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "row_security": "off",
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{STATEMENT_SECONDS:g}s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "3s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Settings of each session, whatever the database, the role or the URL sets.

With row_security=off, a statement from which a policy would hide rows fails, instead of finding less than there is.
"""

_ARRAYS: Final = {
    "bool": (16, 1000),
    "bytea": (17, 1001),
    "int8": (20, 1016),
    "int4": (23, 1007),
    "text": (25, 1009),
    "float8": (701, 1022),
}
_ARRAY_TYPES: Final = [
    {
        "oid": array,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
        "depth": 1,
        "basetype_name": None,
        "elemtype_name": name,
        "range_subtype_name": None,
    }
    for name, (element, array) in _ARRAYS.items()
]
"""The array types of all parameters and results. Their numbers are the same in every server. If the driver did not know
them, it would ask the server on each new connection, which takes six round trips."""

_SOCKET_OPTIONS: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
"""Seconds, seconds, probes, milliseconds. Not every operating system has all of them."""


async def connect(url: str, *, pooler: bool = False) -> asyncpg.Connection:
    """Open a connection to a host of a URL.

    All hosts are tried at the same time, and the addresses of a host shortly one after the other, so that one that is
    cut off does not delay the others. The first that answers and meets target_session_attrs is used. With `pooler`, the
    session gets no settings and keeps no prepared statements, because another client may get it next.

    Raises one of DRIVER_ERRORS, or DsnError.
    """
    target = dsn.parse(url)
    deadline = asyncio.get_running_loop().time() + min(target.connect_seconds or inf, DATABASE_CONNECT_SECONDS)
    if not target.hosts:
        return await _connect(target, deadline, None, None, pooler=pooler)
    hosts = [partial(_connect_to_host, target, deadline, host, pooler=pooler) for host in target.hosts]
    if len(hosts) == 1:
        return await hosts[0]()
    try:
        return await first_connection(hosts)
    except NoConnectionError as e:
        reasons = "; ".join(explain(error) for error in e.errors)
        raise ConnectionError(f"no host is {target.target_session_attrs}: {reasons}") from None


async def _connect_to_host(target: Dsn, deadline: float, host: Host, *, pooler: bool) -> asyncpg.Connection:
    """Connect to one of the addresses of a host. Errors get a note with the host, with which explain() begins."""
    try:
        async with asyncio.timeout_at(deadline):
            found = await addresses(host)
        attempts = [partial(_connect, target, deadline, host, address, pooler=pooler) for address in found]
        pause = min(ADDRESS_SECONDS, DATABASE_CONNECT_SECONDS / 2 / len(attempts))
        try:
            return await first_connection(attempts, pause)
        except NoConnectionError as e:
            raise e.most_telling from None
    except DRIVER_ERRORS as e:
        e.add_note(str(host))
        raise


async def _connect(
    target: Dsn, deadline: float, host: Host | None, address: str | None, *, pooler: bool
) -> asyncpg.Connection:
    """Connect to an address of a host, or to the default socket."""
    loop = asyncio.get_running_loop()
    loop_to_address: Any = LoopToAddress(loop, address) if address else loop
    settings = target.server_settings
    connection: asyncpg.Connection = await asyncpg.connect(
        target.driver_url,
        host=host.name if host else None,
        port=host.port if host else None,
        loop=loop_to_address,
        ssl=target.tls(host) if host else target.sslmode,
        target_session_attrs=SessionAttribute(target.target_session_attrs),
        timeout=max(deadline - loop.time(), 0.01),
        command_timeout=STATEMENT_SECONDS,
        statement_cache_size=0 if pooler else 100,
        max_cached_statement_lifetime=0,
        server_settings=settings if pooler else {"application_name": "checkpointd", **settings, **_SESSION_SETTINGS},
    )
    try:
        session: Any = connection.get_settings()
        require_utf8(getattr(session, "server_encoding", None))
        session.register_data_types(_ARRAY_TYPES)
    except BaseException:
        connection.terminate()
        raise
    _probe_when_silent(connection)
    return connection


def _probe_when_silent(connection: asyncpg.Connection) -> None:
    """Turn on TCP keepalive, unless the connection is a Unix socket."""
    transport: asyncio.BaseTransport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001  # no other way
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _SOCKET_OPTIONS.items():
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def database_deadline_in(seconds: float | None) -> AbstractAsyncContextManager[asyncio.Timeout]:
    """Limit work with the database to this many seconds, or None for no limit. Otherwise like database_deadline()."""
    return database_deadline(None if seconds is None else asyncio.get_running_loop().time() + seconds)


@asynccontextmanager
async def database_deadline(at: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Limit work with the database: it must end by `at` on the event loop's clock; None means no limit.

    Raises DatabaseUnavailableError for errors of the driver, and when the deadline passes.
    """
    with driver_errors_wrapped():
        async with asyncio.timeout_at(at) as limit:
            yield limit
