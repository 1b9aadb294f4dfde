"""The HTTP server of the simulated provider: the four read endpoints for fine-tuning jobs, as its kind has them.

Any key that is not empty is accepted. Lists and records follow the published specification. Errors, which it does not
describe, have the usual body of the kind. Answers depend only on the request and the clock.
"""

import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from checkpointd.simulator import coreweave, foundry, tinker, together
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.lists import Clock, models_of, page
from checkpointd.simulator.shapes import Kind, RequestError
from checkpointd.simulator.world import Record, UnknownJobError, World

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
    kind = world.shape.kind
    return provider_application(kind, _OTHER_FORMATS.get(kind, _handlers)(world, clock))


_OTHER_FORMATS: Final = {
    "coreweave": coreweave.handlers,
    "together": together.handlers,
    "tinker": tinker.handlers,
    "foundry": foundry.handlers,
}
"""The handlers of the kinds whose format is not OpenAI's."""


def _handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers of OpenAI's format, by path."""
    shape = world.shape
    kind = KINDS[shape.kind]

    def page_of(data: list[Record], *, has_more: bool) -> Record:
        return {"object": "list", "data": data} | ({"has_more": has_more} if kind.says_has_more else {})

    async def list_jobs(request: web.Request) -> web.Response:
        jobs = [job for job in world.jobs(clock()) if _has_metadata(job, request.query)]
        data, has_more = page(request, jobs, default_limit=20)
        # In the specification only the list of checkpoints has first_id and last_id.
        return web.json_response(page_of(data, has_more=has_more))

    async def retrieve_job(request: web.Request) -> web.Response:
        return web.json_response(world.job(request.match_info["id"], clock()))

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = world.checkpoints(request.match_info["id"], clock())
        items = newest if shape.order == "descending" else newest[::-1]
        data, has_more = page(request, items, 10, listed={item["id"] for item in newest[: shape.listed]})
        answer = page_of(data, has_more=has_more)
        if kind.has_edge_ids:
            answer["first_id"], answer["last_id"] = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return web.json_response(answer)

    async def list_events(request: web.Request) -> web.Response:
        data, has_more = page(request, world.events(request.match_info["id"], clock()), default_limit=20)
        return web.json_response(page_of(data, has_more=has_more))

    async def list_models(_: web.Request) -> web.Response:
        data = models_of(world.jobs(clock()), shape.shutdown_date)
        return web.json_response({"object": "list", "data": data})

    handlers: dict[str, Handler] = {
        "/models": list_models,
        f"{JOBS}/{{id}}": retrieve_job,
        f"{JOBS}/{{id}}/checkpoints": list_checkpoints,
        f"{JOBS}/{{id}}/events": list_events,
    }
    return handlers | ({JOBS: list_jobs} if kind.lists_jobs else {})


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
            response = web.json_response(api.error_body(e), status=e.status)
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
