"""The lists of Foundry's fine-tuning sessions: `GET /fine_tuning/sessions`, and the checkpoints of each session."""

from collections.abc import Iterator, Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.simulator.lists import Clock, page_by_offset, time_text
from checkpointd.simulator.world import Record, World

SESSIONS: Final = "/fine_tuning/sessions"


def session(record: Record, now: float) -> Record:
    """Return a session as Foundry lists it, from a record of OpenAI's format. A cancelled one has failed."""
    return {
        "session_id": record["id"],
        "status": "failed" if record["status"] == "cancelled" else record["status"],
        "base_model": record["model"],
        "is_lora": True,
        "lora_rank": 32,
        "corrupted": False,
        "last_request_time": time_text(record["finished_at"] or now),
    }


def checkpoints(record: Record) -> Iterator[Record]:
    """Yield the two checkpoints that a program saves at the step of a record of OpenAI's format."""
    for kind in ("training", "sampler"):
        name, time = f"{kind}-step-{record['step_number']:06d}", time_text(record["created_at"])
        yield {"checkpoint_id": name, "checkpoint_type": kind, "time": time}


def handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers by path. The list of sessions has pages, that of the checkpoints of a session is one page."""

    async def list_sessions(request: web.Request) -> web.Response:
        sessions = [session(record, clock()) for record in world.jobs(clock())]
        return web.json_response(page_by_offset(request, "data", sessions))

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = world.checkpoints(request.match_info["id"], clock())[: world.shape.listed]
        return web.json_response({"checkpoints": [item for record in newest for item in checkpoints(record)]})

    return {SESSIONS: list_sessions, f"{SESSIONS}/{{id}}/checkpoints": list_checkpoints}
