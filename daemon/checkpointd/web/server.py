"""The status port: health checks, metrics, and the status page. All of it is read-only."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Final, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.aiohttp import make_aiohttp_handler

from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.dsn import Host
from checkpointd.postgres.errors import TIMEOUT_ERRORS, DatabaseUnavailableError
from checkpointd.postgres.store import CLOSE_SECONDS, Store
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import REGISTRY
from checkpointd.web import data, render
from checkpointd.web.address import EXPOSED, beyond_loopback, is_loopback
from checkpointd.web.listener import listen
from checkpointd.web.view import View

Problems = Callable[[], list[str]]
"""Returns the reasons why the daemon cannot work; empty if it can."""

PAGE_SECONDS: Final = 2.0
"""The longest time that the database may take for one page."""

_TOO_SLOW: Final = (
    f"no response in time: reading this page took longer than {PAGE_SECONDS:g} s. The database is overloaded or cut "
    "off, or it holds too much of what this page shows"
)

_HEADERS: Final = {
    # The browser loads only what this port serves. So even unescaped markup could not run scripts or send data.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC_FILES: Final = {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    problems: Problems,
    store: Store,
    configured: Sequence[str],
    source_problems: Problems = list,
    can_poll: Callable[[], bool] = lambda: True,
) -> AsyncIterator[None]:
    """Serve the status port. If it cannot be opened, log a warning and continue without it.

    `store` must have connections of its own, so that pages and polls do not wait for each other. `configured` are the
    names of the sources in the settings. `source_problems` are shown by /readyz. They make it fail only if no source
    can be polled: otherwise the daemon polls the other sources.
    """
    addresses: list[tuple[str, int]] = []

    def is_loopback_only() -> bool:
        return not beyond_loopback(address for address, _ in addresses)

    app = web.Application(middlewares=[_check_host(host, is_loopback_only), _show_problems(problems)])
    app.on_response_prepare.append(_add_headers)
    _add_routes(app.router, problems, source_problems, can_poll, store, configured)
    server_logger.addFilter(_is_no_bad_request)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        try:
            addresses += await stack.enter_async_context(listen(cast(web.Server, runner.server), host, port))
        except OSError as e:
            log.warning("web.unavailable", host=host, port=port, error=e.strerror or str(e))
        else:
            log.info("web.listening", address=str(Host(*addresses[0])))
            if exposed := beyond_loopback(address for address, _ in addresses):
                log.warning("web.exposed", addresses=exposed, advice=EXPOSED)
        yield


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    """Return False for what is logged of a request that is not HTTP: any client could fill the log with tracebacks."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _add_routes(
    router: web.UrlDispatcher,
    problems: Problems,
    source_problems: Problems,
    can_poll: Callable[[], bool],
    store: Store,
    configured: Sequence[str],
) -> None:
    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = [*problems(), *([] if can_poll() else ["no source can be polled"])]
        lines = [*(found or ["ok"]), *source_problems()]
        return web.Response(text="\n".join(lines) + "\n", status=503 if found else 200)

    async def jobs(request: web.Request) -> web.Response:
        found = await data.read_jobs_page(store, request.query.get("q", ""), _page_number(request), configured)
        return _html(render.jobs_page(found, problems()))

    async def job(request: web.Request) -> web.Response:
        source, job_id = request.match_info["source"], request.match_info["job"]
        before = _number(request, "before", default=data.END_OF_FEED, maximum=data.END_OF_FEED)
        found = await data.read_job_page(store, source, job_id, View.read(request.query), _page_number(request), before)
        if found is None:
            raise web.HTTPNotFound
        return _html(render.job_page(found, problems()))

    async def compare(request: web.Request) -> web.Response:
        keys = [render.read_job_key(key) for key in request.query.getall("job", [])]
        found = await data.read_comparison_page(store, keys, View.read(request.query))
        return _html(render.comparison_page(found, problems()))

    router.add_get("/livez", livez)
    router.add_get("/readyz", readyz)
    router.add_get("/metrics", make_aiohttp_handler(REGISTRY))
    router.add_get("/", jobs)
    router.add_get("/compare", compare)
    router.add_get("/jobs/{source:[^/]+}/{job:[^/]+}", job)
    for name, content_type in _STATIC_FILES.items():
        router.add_get(f"/static/{name}", _file(name, content_type))


def _page_number(request: web.Request) -> int:
    return _number(request, "page", default=1, maximum=10**9)


def _number(request: web.Request, name: str, *, default: int, maximum: int) -> int:
    """Return a number of the query string, or the default if it is absent or not a number."""
    text = request.query.get(name, "")
    return min(int(text), maximum) if text.isascii() and text.isdigit() and len(text) < 20 else default


def _html(text: str, status: int = 200) -> web.Response:
    response = web.Response(text=text, content_type="text/html", charset="utf-8", status=status)
    response.enable_compression()  # a page of 500 kB, which each tab reads every few seconds, becomes 60 kB in 7 ms
    return response


def _file(name: str, content_type: str) -> Handler:
    body = (files("checkpointd.web") / "static" / name).read_bytes()

    async def send(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return send


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers["Connection"] = "close"  # an idle connection would take the place of another one
    response.force_close()


def _show_problems(problems: Problems) -> Middleware:
    """Return a middleware that responds with a page if a path does not exist or the database is unavailable."""

    @web.middleware
    async def show_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with database_deadline_in(PAGE_SECONDS):
                return await handler(request)
        except web.HTTPNotFound:
            return _html(_not_found(), status=404)
        except DatabaseUnavailableError as e:
            cause = _TOO_SLOW if e.kind in TIMEOUT_ERRORS else f"database: {e}"
            return _html(_unavailable(problems() or [cause]), status=503)

    return show_problems


def _not_found() -> str:
    return render.problem_page(
        "Not found", "This page does not exist. If it is the page of a job, that job was never tracked."
    )


def _unavailable(reasons: Sequence[str]) -> str:
    return render.problem_page(
        "The database cannot be read",
        "checkpointd keeps trying. This page will work again as soon as the database does.",
        reasons,
    )


def _check_host(host: str, is_loopback_only: Callable[[], bool]) -> Middleware:
    """Return a middleware that rejects requests for other host names, if the port listens on loopback only.

    Otherwise any web page could read this port through the browser of this machine, by resolving its own host name to
    127.0.0.1 (DNS rebinding). If other machines can reach the port, every name is accepted: Prometheus and proxies may
    use any.
    """

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        header = request.headers.get("Host")  # browsers always send it
        if header is not None and is_loopback_only():
            name = _host_name(header)
            if not is_loopback(name) and name != host.lower():
                raise web.HTTPMisdirectedRequest(
                    text="This port accepts requests for localhost only. "
                    "A proxy in front of it must send the header `Host: localhost`.\n"
                )
        return await handler(request)

    return check_host


def _host_name(header: str) -> str | None:
    """Return the name in a Host header, without the port, or None if the header is invalid."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
