"""The status port: is the process alive, can it work, its metrics, and the status page. Changes nothing."""

import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.aiohttp import make_aiohttp_handler

from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.dsn import Host
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import CLOSE_SECONDS, Store
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import REGISTRY
from checkpointd.web import data as read
from checkpointd.web import render

Problems = Callable[[], list[str]]
"""Says what keeps the daemon from its work; empty: nothing."""

PAGE_SECONDS: Final = 5.0
"""How long the database may take for one page."""

_HEADERS: Final = {
    # Nothing is loaded but what this port serves, and no name or error that got through could run or send anything.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC: Final = {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}


@asynccontextmanager
async def serve(host: str, port: int, problems: Problems, store: Store) -> AsyncIterator[None]:
    """Serve the port; one that cannot be had is a warning. `store` is the pages' own: they wait for no poll."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = problems()
        return web.Response(text="\n".join(found or ["ok"]) + "\n", status=503 if found else 200)

    async def jobs(request: web.Request) -> web.Response:
        found = await read.read_jobs(store, request.query.get("q", ""), _page(request))
        return _html(render.jobs(found, problems()))

    async def job(request: web.Request) -> web.Response:
        source, job_id = request.match_info["source"], request.match_info["job"]
        before = _number(request, "before", default=read.NEWEST, most=read.NEWEST)
        found = await read.read_job(store, source, job_id, _page(request), before)
        if found is None:
            raise web.HTTPNotFound
        return _html(render.job(found, problems()))

    def is_private() -> bool:
        return all(_is_loopback(address[0]) for address in runner.addresses)

    app = web.Application(middlewares=[_only_own_names(host, is_private), _explained(problems)])
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", make_aiohttp_handler(REGISTRY))
    app.router.add_get("/", jobs)
    app.router.add_get("/jobs/{source:[^/]+}/{job:[^/]+}", job)
    for name, content_type in _STATIC.items():
        app.router.add_get(f"/static/{name}", _file(name, content_type))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as e:
        log.warning("web.unavailable", host=host, port=port, error=e.strerror or str(e))
    else:
        log.info("web.listening", address=str(Host(*runner.addresses[0][:2])))
    try:
        yield
    finally:
        await runner.cleanup()


def _page(request: web.Request) -> int:
    return _number(request, "page", default=1, most=10**9)


def _number(request: web.Request, name: str, *, default: int, most: int) -> int:
    """Return the number that is asked for by this name; what is none asks for the default."""
    wanted = request.query.get(name, "")
    return min(int(wanted), most) if wanted.isascii() and wanted.isdigit() and len(wanted) < 20 else default


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8", status=status)


def _file(name: str, content_type: str) -> Handler:
    body = (files("checkpointd.web") / "static" / name).read_bytes()

    async def send(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return send


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _explained(problems: Problems) -> Middleware:
    """Make pages of what keeps a page from being shown."""

    @web.middleware
    async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with database_deadline_in(PAGE_SECONDS):
                return await handler(request)
        except web.HTTPNotFound:
            return _html(_not_found(), status=404)
        except DatabaseUnavailableError as e:
            return _html(_unavailable(problems() or [f"database: {e}"]), status=503)

    return explained


def _not_found() -> str:
    return render.problem("Not found", "There is no such page, and no job of this source and id was ever tracked.")


def _unavailable(why: Sequence[str]) -> str:
    return render.problem(
        "The database cannot be read", "checkpointd goes on trying; this page is back once it can.", why
    )  # fmt: skip


def _only_own_names(host: str, is_private: Callable[[], bool]) -> Middleware:
    """Refuse requests for other names than this machine's own, where only this machine can ask.

    Else any web page could read this port: it has its own name resolve to 127.0.0.1 (DNS rebinding). Where others can
    ask, they may use any name, as Prometheus does.
    """

    @web.middleware
    async def only_own_names(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = request.headers.get("Host")  # browsers always send it
        if named is not None and is_private():
            name = _name(named)
            if not _is_loopback(name) and name != host.lower():
                raise web.HTTPMisdirectedRequest(
                    text="This port answers to localhost only: let a proxy in front of it say so in Host.\n"
                )
        return await handler(request)

    return only_own_names


def _name(host: str) -> str | None:
    """Return the name of a Host header, without its port; None: it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_loopback(name: str | None) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
