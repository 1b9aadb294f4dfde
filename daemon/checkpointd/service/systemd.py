"""sd_notify(3): report the state of the service to systemd. Without systemd, nothing happens."""

import os
import socket


def notify(**state: object) -> None:
    """Send assignments such as READY=1 or STATUS="…". A message that cannot be delivered is dropped."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError:
            return


def listens() -> bool:
    """Return whether systemd receives notifications of this process."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def watchdog_seconds() -> float | None:
    """Return the seconds without WATCHDOG=1 after which systemd kills this process, or None if it does not.

    The variables are read as by sd_watchdog_enabled(3).
    """
    given, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not given.isdecimal() or int(given) == 0 or process not in {"", str(os.getpid())}:
        return None
    return int(given) / 1e6
