"""sd_notify(3): tell systemd how the service is. Nothing happens where no systemd listens."""

import os
import socket


def notify(**state: object) -> None:
    """Send assignments such as READY=1 or STATUS="…"; an undeliverable message is no error of ours."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    message = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError:
            return
