"""The addresses of a host, and the first of several attempts that leads to a connection."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncpg

from checkpointd.postgres.dsn import Host
from checkpointd.postgres.errors import DRIVER_ERRORS, explain

ADDRESS_SECONDS: Final = 0.25
"""How long an address may take before the next one is tried too: as in RFC 8305, "Connection Attempt Delay"."""


TCP_SECONDS: Final = 4.0
"""How long a host may take to accept a TCP connection, which is one round trip. A host that is down takes longer."""


class NoConnectionError(Exception):
    """Every attempt failed. `errors` has one of DRIVER_ERRORS for each, in the order of the attempts."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__()
        self.errors = errors

    @property
    def most_telling(self) -> Exception:
        """The answer of a server if there was one, or else all errors as one."""
        answer = next((error for error in self.errors if isinstance(error, asyncpg.PostgresError)), None)
        texts = list(dict.fromkeys(map(explain, self.errors)))
        return answer or (self.errors[0] if len(texts) == 1 else ConnectionError("; ".join(texts)))


async def addresses(host: Host) -> list[str | None]:
    """Return the IP addresses of a host, at least one. For a socket the only one is None."""
    if host.name.startswith("/") or host.address:
        return [host.address]
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host.name))]
    found = await asyncio.get_running_loop().getaddrinfo(host.name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class LoopToAddress:
    """An event loop whose TCP connections go to one address, whatever the name of the host is.

    asyncpg gets the name, which it needs for the certificate and the password file. By itself it would try the
    addresses of the name one after the other, and wait for each as long as it may take in all.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._address = address

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # any attribute of the loop
        return getattr(self._loop, name)

    def __eq__(self, other: object) -> bool:
        """Equal the loop: asyncio finds the current task of a loop by comparison."""
        return self._loop == other

    def __hash__(self) -> int:
        return hash(self._loop)

    async def create_connection(
        self,
        protocol: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        **options: Any,  # noqa: ANN401  # those of the loop
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to the address instead of the host, within TCP_SECONDS."""
        if options.get("ssl"):
            options = {"server_hostname": host, **options}
        async with asyncio.timeout(TCP_SECONDS):
            return await self._loop.create_connection(protocol, self._address, port, **options)


async def first_connection(
    attempts: Sequence[Callable[[], Awaitable[asyncpg.Connection]]], pause: float = 0
) -> asyncpg.Connection:
    """Return the connection of the first attempt that succeeds, and close those of the others.

    An attempt starts when the one before has failed, or has lasted for `pause` seconds. Raises NoConnectionError.
    """
    tasks: list[asyncio.Future[asyncpg.Connection]] = []
    chosen = None
    try:
        while chosen is None:
            if len(tasks) < len(attempts):
                tasks.append(asyncio.ensure_future(attempts[len(tasks)]()))
            running = [task for task in tasks if not task.done()]
            if running:
                wait = pause if len(tasks) < len(attempts) else None
                done, _ = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                chosen = next((task.result() for task in done if _succeeded(task)), None)
            elif len(tasks) == len(attempts):
                raise NoConnectionError([error for task in tasks if isinstance(error := task.exception(), Exception)])
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(lambda task: _close_unless(chosen, task))
    return chosen


def _succeeded(task: asyncio.Future[asyncpg.Connection]) -> bool:
    """Return whether an attempt has a connection. Raises its error if it is not one of DRIVER_ERRORS."""
    error = task.exception()
    if error and not isinstance(error, DRIVER_ERRORS):
        raise error
    return error is None


def _close_unless(chosen: asyncpg.Connection | None, task: asyncio.Future[asyncpg.Connection]) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not chosen:
        task.result().terminate()
