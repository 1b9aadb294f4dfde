"""A provider's three read endpoints for fine-tuning jobs over HTTP, in the shape of its kind.

Any key that is not empty is accepted. Lists and records follow the published specification, and errors, which it
leaves out, the kind's usual body. The clock alone moves the world: while it stands still, so do the answers.
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
"""Gives the simulated time, in Unix seconds."""

JOBS: Final = "/fine_tuning/jobs"


def accelerated(speed: float, start: float, monotonic: Callable[[], float] = time.monotonic) -> Clock:
    """Return a clock that shows `start` (Unix seconds) now and then runs `speed` times as fast as `monotonic`."""
    begun = monotonic()
    return lambda: start + speed * (monotonic() - begun)


@asynccontextmanager
async def serve(world: World, clock: Clock, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve `world` while the context is open; yield the base URL. Port 0 is any free one; OSError if it is taken."""
    async with serve_application(world.shape.kind, world_application(world, clock), host, port) as url:
        yield url


@asynccontextmanager
async def serve_application(kind: Kind, application: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Run a provider's application while the context is open, as `serve` does."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield str(URL.build(scheme="http", host=host, port=runner.addresses[0][1], path=KINDS[kind].roots[0]))
    finally:
        await runner.cleanup()


def world_application(world: World, clock: Clock) -> web.Application:
    """Return a new application that answers from one world and its clock."""
    shape = world.shape
    kind = KINDS[shape.kind]

    async def list_jobs(request: web.Request) -> web.Response:
        jobs = [job for job in world.jobs(clock()) if _has_metadata(job, request.query)]
        data, has_more = _page(request, jobs, default_limit=20)
        # The specification gives this list, unlike that of checkpoints, no first_id and last_id.
        return web.json_response({"object": "list", "data": data, "has_more": has_more})

    async def retrieve_job(request: web.Request) -> web.Response:
        return web.json_response(world.job(request.match_info["id"], clock()))

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = world.checkpoints(request.match_info["id"], clock())
        items = newest if shape.order == "descending" else newest[::-1]
        data, has_more = _page(request, items, 10, listed={item["id"] for item in newest[: shape.listed]})
        page = {"object": "list", "data": data, "has_more": has_more}
        if kind.has_edge_ids:
            page["first_id"], page["last_id"] = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return web.json_response(page)

    handlers: dict[str, Handler] = {f"{JOBS}/{{id}}": retrieve_job, f"{JOBS}/{{id}}/checkpoints": list_checkpoints}
    return provider_application(shape.kind, handlers | ({JOBS: list_jobs} if kind.lists_jobs else {}))


def provider_application(kind: Kind, handlers: Mapping[str, Handler]) -> web.Application:
    """Return an application with these handlers, by path, under each root of the kind.

    It asks for the kind's key, and gives every refusal the kind's error body and every answer a request id.
    """
    ways = KINDS[kind]
    requests = itertools.count(1)

    async def accepted(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            ways.admit(request.headers, request.path, request.query)
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
            response = await accepted(request, handler)
        except RequestError as refused:
            response = web.json_response({"error": ways.error(refused)}, status=refused.status)
        response.headers["x-request-id"] = f"req_{next(requests):032x}"
        return response

    application = web.Application(middlewares=[answer])
    for root, (path, handler) in itertools.product(ways.roots, handlers.items()):
        application.router.add_get(root + path, handler)
    return application


def _has_metadata(job: Record, query: Mapping[str, str]) -> bool:
    """Say whether a job has what each `metadata[name]=value` asks for; `metadata=null` asks for none at all."""
    if query.get("metadata") == "null":
        return not job["metadata"]
    asked = ((match[1], query[key]) for key in query if (match := re.fullmatch(r"metadata\[(.*)\]", key)))
    return all(job["metadata"].get(name) == value for name, value in asked)


def _page(
    request: web.Request, items: list[Record], default_limit: int, listed: Collection[str] | None = None
) -> tuple[list[Record], bool]:
    """Cut the page that the query asks for out of the items (of these ids); say whether more of them follow."""
    limit = request.query.get("limit", str(default_limit))
    if not re.fullmatch("[1-9][0-9]?|100", limit):
        raise RequestError(400, f"Invalid 'limit': expected an integer from 1 to 100, but got {limit!r}.", "limit")
    start = 0
    if "after" in request.query:
        after = request.query["after"]
        # A cursor that has left the list since the last page is still known: what is listed of those behind it follows.
        start = next((place for place, item in enumerate(items, 1) if item["id"] == after), 0)
        if start == 0:
            raise RequestError(400, f"Invalid 'after': there is no {after!r} in this list.", "after")
    rest = [item for item in items[start:] if listed is None or item["id"] in listed]
    return rest[: int(limit)], len(rest) > int(limit)
