"""The status port: is the process alive, can it work, and its metrics. Reads nothing, changes nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from checkpointd.observe import REGISTRY, log

Problems = Callable[[], list[str]]
"""Says what keeps the daemon from its work; empty: nothing."""


@asynccontextmanager
async def serve(host: str, port: int, problems: Problems) -> AsyncIterator[None]:
    """Serve the port; one that cannot be had is a warning."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = problems()
        return web.Response(text="\n".join(found or ["ok"]) + "\n", status=503 if found else 200)

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", make_aiohttp_handler(REGISTRY))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as e:
        log.warning("web.unavailable", host=host, port=port, error=e.strerror or str(e))
    else:
        log.info("web.listening", address=str(runner.addresses[0]))
    try:
        yield
    finally:
        await runner.cleanup()
