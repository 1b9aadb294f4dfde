"""Recorded lists of checkpoints, served byte for byte as they were received."""

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
    """Return the bodies in `folder`/*.json by the job that they list, and what is left out: file and reason.

    A body that claims more pages than itself cannot be served as it is: nobody would get to its end. Raises OSError.
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
            left_out.append(f"{path.name}: not a list of checkpoints, or an empty one, which tells no job")
            continue
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", job):  # who reads it may type it
            left_out.append(f"{path.name}: its fine_tuning_job_id is no id of a job")
        elif has_more:
            left_out.append(f"{path.name}: it claims more pages than there are")
        elif job in bodies:
            left_out.append(f"{path.name}: {job} is in an earlier file, too")
        else:
            bodies[job] = body
    return bodies, left_out


@asynccontextmanager
async def serve_recorded(
    bodies: Mapping[str, bytes], kind: Kind = "openai", host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve each job's body while the context is open, whatever page is asked for; yield the base URL, as `serve`.

    The kind decides about addresses, keys and errors. No jobs are listed: nobody recorded such lists.
    """

    async def list_checkpoints(request: web.Request) -> web.Response:
        job = request.match_info["id"]
        if job not in bodies:
            raise UnknownJobError(job)
        return web.Response(body=bodies[job], content_type="application/json")

    application = provider_application(kind, {f"{JOBS}/{{id}}/checkpoints": list_checkpoints})
    async with serve_application(kind, application, host, port) as url:
        yield url
