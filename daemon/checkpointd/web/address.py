"""Which addresses the name of a host stands for, and which of them other machines can reach."""

import asyncio
import ipaddress
from collections.abc import Iterable
from typing import Final

EXPOSED: Final = (
    "the status page has no login: use 127.0.0.1, or protect the port by a firewall or a proxy with a login"
)
"""What to do if other machines can reach the status port."""


async def resolve(host: str) -> list[str]:
    """Return the addresses on which a server with this host listens. Raises OSError if the name is unknown."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def beyond_loopback(addresses: Iterable[str]) -> list[str]:
    """Return the addresses that other machines can reach, such as 0.0.0.0, which stands for all of them."""
    return [address for address in addresses if not is_loopback(address)]


def is_loopback(name: str | None) -> bool:
    """Return whether a name or an address is the one of loopback."""
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
