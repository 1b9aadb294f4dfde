"""A receiver of webhooks that shows what it gets. It verifies the signatures by code of its own."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

_TOLERANCE_SECONDS: Final = 300
"""How old a signature may be."""


def receiver_secret(seed: int) -> str:
    """Return a secret of the form whsec_…. The same seed gives the same one."""
    return f"whsec_{base64.b64encode(hashlib.sha256(str(seed).encode()).digest()).decode()}"


@asynccontextmanager
async def serve_receiver(
    secret: str, show: Callable[[str], None], host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Receive messages while the context is open, and show each as text. Yields the URL.

    Messages without a signature, such as those for Slack, are accepted; those with a wrong one get the status 401. Port
    0 chooses a free port. Raises OSError if the port is in use.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        is_signed = "webhook-signature" in request.headers
        is_right = not is_signed or is_verified(key, request.headers, body, time.time())
        state = ("verified" if is_right else "WRONG SIGNATURE") if is_signed else "not signed"
        show(f"{request.headers.get('webhook-id', 'without an id')}: {state}\n{_pretty(body)}")
        return web.Response(status=204 if is_right else 401)

    application = web.Application()
    application.router.add_post("/{path:.*}", receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def is_verified(key: bytes, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether one of the signatures in the headers is right, and not older than five minutes."""
    id_, seconds = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not seconds.isascii() or not seconds.isdecimal() or abs(now - int(seconds)) > _TOLERANCE_SECONDS:
        return False
    right = base64.b64encode(hmac.digest(key, f"{id_}.{seconds}.".encode() + body, "sha256"))
    return any(hmac.compare_digest(b"v1," + right, each.encode()) for each in headers["webhook-signature"].split())


def _pretty(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
