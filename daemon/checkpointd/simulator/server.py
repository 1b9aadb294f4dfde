"""OpenAI's three read endpoints for fine-tuning jobs over HTTP, with its envelopes and its errors.

Any bearer key that is not empty is accepted. Lists and records follow the published specification, and errors, which it
leaves out, OpenAI's usual body. The clock alone moves the world: while it stands still, so do the answers.
"""

import itertools
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from .world import LISTED, Record, UnknownJobError, World

Clock = Callable[[], float]
"""Gives the simulated time, in Unix seconds."""

BASE: Final = "/v1"


def accelerated(speed: float, start: float, monotonic: Callable[[], float] = time.monotonic) -> Clock:
    """Return a clock that shows `start` (Unix seconds) now and then runs `speed` times as fast as `monotonic`."""
    begun = monotonic()
    return lambda: start + speed * (monotonic() - begun)


@asynccontextmanager
async def serve(world: World, clock: Clock, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve `world` while the context is open; yield the base URL. Port 0 is any free one; OSError if it is taken."""
    runner = web.AppRunner(Simulator(world, clock).application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield str(URL.build(scheme="http", host=host, port=runner.addresses[0][1], path=BASE))
    finally:
        await runner.cleanup()


class Simulator:
    """The handlers around one world and its clock; `application()` is what a server runs."""

    def __init__(self, world: World, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._requests = itertools.count(1)

    def application(self) -> web.Application:
        """Return a new aiohttp application with the routes under `/v1`."""
        application = web.Application(middlewares=[self._answer])
        jobs = f"{BASE}/fine_tuning/jobs"
        application.router.add_get(jobs, self._list_jobs)
        application.router.add_get(f"{jobs}/{{id}}", self._retrieve_job)
        application.router.add_get(f"{jobs}/{{id}}/checkpoints", self._list_checkpoints)
        return application

    async def _list_jobs(self, request: web.Request) -> web.Response:
        data, has_more = _page(request, self._world.jobs(self._clock()), default_limit=20)
        # The specification gives this list, unlike that of checkpoints, no first_id and last_id.
        return web.json_response({"object": "list", "data": data, "has_more": has_more})

    async def _retrieve_job(self, request: web.Request) -> web.Response:
        return web.json_response(self._world.job(request.match_info["id"], self._clock()))

    async def _list_checkpoints(self, request: web.Request) -> web.Response:
        published = self._world.checkpoints(request.match_info["id"], self._clock())
        data, has_more = _page(request, published, default_limit=10, listed=LISTED)
        return web.json_response(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": has_more,
            }
        )

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask for a key, and give every refusal OpenAI's error body and every answer a request id."""
        response: web.StreamResponse
        try:
            _require_key(request)
            response = await handler(request)
        except _RefusedError as refused:
            response = _error(refused.status, refused.message, refused.param)
        except UnknownJobError as unknown:
            response = _error(404, f"Could not find fine tune: {unknown}", "fine_tune_id", "fine_tune_not_found")
        except web.HTTPMethodNotAllowed:
            response = _error(405, f"Invalid method for URL ({request.method} {request.path})")
        except web.HTTPNotFound:
            response = _error(404, f"Invalid URL ({request.method} {request.path})")
        response.headers["x-request-id"] = f"req_{next(self._requests):032x}"
        return response


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


def _require_key(request: web.Request) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        # No key is wrong here, only missing: so the message, unlike OpenAI's, repeats nothing of what was sent.
        raise _RefusedError(401, "You didn't provide an API key in an Authorization header using Bearer auth.")


def _page(
    request: web.Request, items: list[Record], default_limit: int, listed: int | None = None
) -> tuple[list[Record], bool]:
    """Cut the page that the query asks for out of the first `listed` items; say whether more of these follow."""
    limit = request.query.get("limit", str(default_limit))
    if not re.fullmatch("[1-9][0-9]?|100", limit):
        raise _RefusedError(400, f"Invalid 'limit': expected an integer from 1 to 100, but got {limit!r}.", "limit")
    start = 0
    if "after" in request.query:
        after = request.query["after"]
        # A cursor that has left the list since the last page is still known, and nothing follows it.
        start = next((place for place, item in enumerate(items, 1) if item["id"] == after), 0)
        if start == 0:
            raise _RefusedError(400, f"Invalid 'after': there is no {after!r} in this list.", "after")
    rest = items[start:listed]
    return rest[: int(limit)], len(rest) > int(limit)


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return web.json_response({"error": error}, status=status)
