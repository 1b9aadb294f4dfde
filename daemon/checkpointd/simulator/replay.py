"""Serve recorded lists of checkpoints, byte for byte as they were received."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from checkpointd.simulator.server import JOBS, provider_application, serve_application
from checkpointd.simulator.shapes import Kind
from checkpointd.simulator.world import UnknownJobError


def read_recorded(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Read the bodies in `folder`/*.json, by job. Also returns a line for each file that is left out. Raises OSError.

    A body with `has_more` true is left out, because a client would never reach the end of the list.
    """
    bodies: dict[str, bytes] = {}
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.suffix != ".json":
            continue
        body = path.read_bytes()
        try:
            page = json.loads(body)
            job, has_more = str(page["data"][0]["fine_tuning_job_id"]), page["has_more"]
        except (ValueError, LookupError, TypeError, RecursionError):
            left_out.append(f"{path.name}: not a list of checkpoints, or an empty one, which names no job")
            continue
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", job):  # it is printed as a part of a command
            left_out.append(f"{path.name}: its fine_tuning_job_id is not a valid id")
        elif has_more:
            left_out.append(f"{path.name}: it has only the first of several pages")
        elif job in bodies:
            left_out.append(f"{path.name}: an earlier file already lists {job}")
        else:
            bodies[job] = body
    return bodies, left_out


@asynccontextmanager
async def serve_recorded(
    bodies: Mapping[str, bytes], kind: Kind = "openai", host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve the body of each job for every page of its list while the context is open. Yields the base URL, as `serve`.

    The kind determines paths, keys and errors. There is no job list, because none was recorded.
    """

    async def list_checkpoints(request: web.Request) -> web.Response:
        job = request.match_info["id"]
        if job not in bodies:
            raise UnknownJobError(job)
        return web.Response(body=bodies[job], content_type="application/json")

    application = provider_application(kind, {f"{JOBS}/{{id}}/checkpoints": list_checkpoints})
    async with serve_application(kind, application, host, port) as url:
        yield url
