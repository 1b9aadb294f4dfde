"""The HTTP server of the simulated provider: the four read endpoints for fine-tuning jobs, as its kind has them.

Any key that is not empty is accepted. Lists and records follow the published specification. Errors, which it does not
describe, have the usual body of the kind. Answers depend only on the request and the clock.
"""

import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from checkpointd.simulator.shapes import KINDS, Kind, RequestError
from checkpointd.simulator.world import Record, UnknownJobError, World

Clock = Callable[[], float]
"""Returns the simulated time, in Unix seconds."""

JOBS: Final = "/fine_tuning/jobs"


def accelerated(speed: float, start: float, monotonic: Callable[[], float] = time.monotonic) -> Clock:
    """Return a clock that shows `start` (Unix seconds) now, and runs `speed` times as fast as `monotonic`."""
    started = monotonic()
    return lambda: start + speed * (monotonic() - started)


@asynccontextmanager
async def serve(world: World, clock: Clock, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a world while the context is open. Yields the base URL.

    Port 0 chooses a free port. Raises OSError if the port is in use.
    """
    async with serve_application(world.shape.kind, world_application(world, clock), host, port) as url:
        yield url


@asynccontextmanager
async def serve_application(kind: Kind, application: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application while the context is open. Yields the base URL, as `serve`."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield str(URL.build(scheme="http", host=host, port=runner.addresses[0][1], path=KINDS[kind].roots[0]))
    finally:
        await runner.cleanup()


def world_application(world: World, clock: Clock) -> web.Application:
    """Return an application that answers for a world at the time of a clock."""
    shape = world.shape
    kind = KINDS[shape.kind]

    def page_of(data: list[Record], *, has_more: bool) -> Record:
        return {"object": "list", "data": data} | ({"has_more": has_more} if kind.says_has_more else {})

    async def list_jobs(request: web.Request) -> web.Response:
        jobs = [job for job in world.jobs(clock()) if _has_metadata(job, request.query)]
        data, has_more = _page(request, jobs, default_limit=20)
        # In the specification only the list of checkpoints has first_id and last_id.
        return web.json_response(page_of(data, has_more=has_more))

    async def retrieve_job(request: web.Request) -> web.Response:
        return web.json_response(world.job(request.match_info["id"], clock()))

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = world.checkpoints(request.match_info["id"], clock())
        items = newest if shape.order == "descending" else newest[::-1]
        data, has_more = _page(request, items, 10, listed={item["id"] for item in newest[: shape.listed]})
        page = page_of(data, has_more=has_more)
        if kind.has_edge_ids:
            page["first_id"], page["last_id"] = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return web.json_response(page)

    async def list_events(request: web.Request) -> web.Response:
        data, has_more = _page(request, world.events(request.match_info["id"], clock()), default_limit=20)
        return web.json_response(page_of(data, has_more=has_more))

    handlers: dict[str, Handler] = {
        f"{JOBS}/{{id}}": retrieve_job,
        f"{JOBS}/{{id}}/checkpoints": list_checkpoints,
        f"{JOBS}/{{id}}/events": list_events,
    }
    return provider_application(shape.kind, handlers | ({JOBS: list_jobs} if kind.lists_jobs else {}))


def provider_application(kind: Kind, handlers: Mapping[str, Handler]) -> web.Application:
    """Return an application with these handlers, by path, under each root of the kind.

    It requires the key of the kind. Errors have the body of the kind, and every answer has a request id.
    """
    api = KINDS[kind]
    request_numbers = itertools.count(1)

    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            api.check_access(request.headers, request.path, request.query)
            return await handler(request)
        except UnknownJobError as unknown:
            message = f"Could not find fine tune: {unknown}"
            raise RequestError(404, message, "fine_tune_id", "fine_tune_not_found") from None
        except web.HTTPMethodNotAllowed:
            raise RequestError(405, f"Invalid method for URL ({request.method} {request.path})") from None
        except web.HTTPNotFound:
            raise RequestError(404, f"Invalid URL ({request.method} {request.path})") from None

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await checked(request, handler)
        except RequestError as e:
            response = web.json_response({"error": api.error(e)}, status=e.status)
        response.headers["x-request-id"] = f"req_{next(request_numbers):032x}"
        return response

    application = web.Application(middlewares=[answer])
    for root, (path, handler) in itertools.product(api.roots, handlers.items()):
        application.router.add_get(root + path, handler)
    return application


def _has_metadata(job: Record, query: Mapping[str, str]) -> bool:
    """Return whether a job has every `metadata[name]=value` of the query, or has no metadata for `metadata=null`."""
    if query.get("metadata") == "null":
        return not job["metadata"]
    wanted = ((match[1], query[key]) for key in query if (match := re.fullmatch(r"metadata\[(.*)\]", key)))
    return all(job["metadata"].get(name) == value for name, value in wanted)


def _page(
    request: web.Request, items: list[Record], default_limit: int, listed: Collection[str] | None = None
) -> tuple[list[Record], bool]:
    """Return the items of the requested page, and whether more follow.

    `items` are in the order of the list. If `listed` is given, only items with these ids are returned; the others can
    still be cursors.
    """
    limit = request.query.get("limit", str(default_limit))
    if not re.fullmatch("[1-9][0-9]?|100", limit):
        raise RequestError(400, f"Invalid 'limit': expected an integer from 1 to 100, but got {limit!r}.", "limit")
    start = 0
    if "after" in request.query:
        after = request.query["after"]
        # A cursor may have left the list since the last page. The listed items after it still follow.
        start = next((number for number, item in enumerate(items, 1) if item["id"] == after), 0)
        if start == 0:
            raise RequestError(400, f"Invalid 'after': there is no {after!r} in this list.", "after")
    rest = [item for item in items[start:] if listed is None or item["id"] in listed]
    return rest[: int(limit)], len(rest) > int(limit)
