"""The lists of Tinker: `GET /training_runs`, and the checkpoints of each run."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.simulator.lists import Clock
from checkpointd.simulator.shapes import RequestError
from checkpointd.simulator.world import Record, World

LIFETIME: Final = 7 * 86_400
"""Seconds after which a checkpoint for training is deleted. One for sampling is kept."""


def run(record: Record, now: float) -> Record:
    """Return a training run as Tinker describes it, from a record of OpenAI's format."""
    return {
        "training_run_id": record["id"],
        "base_model": record["model"],
        "model_owner": "simulated",
        "is_lora": True,
        "lora_rank": 32,
        "corrupted": False,
        "last_request_time": _time(record["finished_at"] or now),
        "user_metadata": record["metadata"],
    }


def checkpoints(record: Record) -> Iterator[Record]:
    """Yield the two checkpoints that a program saves at the step of a record of OpenAI's format."""
    job_id, name, made_at = record["fine_tuning_job_id"], f"step-{record['step_number']:06d}", record["created_at"]
    for kind, folder, lifetime in (("training", "weights", LIFETIME), ("sampler", "sampler_weights", None)):
        yield {
            "checkpoint_id": f"{folder}/{name}",
            "checkpoint_type": kind,
            "time": _time(made_at),
            "tinker_path": f"tinker://{job_id}/{folder}/{name}",
            "size_bytes": 1_000_000 + record["step_number"],
            "public": False,
            "expires_at": _time(made_at + lifetime) if lifetime else None,
        }


def handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers by path. The list of runs has pages, that of the checkpoints of a run is one page."""

    async def list_runs(request: web.Request) -> web.Response:
        limit, offset = (_number(request, name, default) for name, default in (("limit", 20), ("offset", 0)))
        runs = [run(record, clock()) for record in world.jobs(clock())]
        cursor = {"offset": offset, "limit": limit, "total_count": len(runs)}
        return web.json_response({"training_runs": runs[offset : offset + limit], "cursor": cursor})

    async def retrieve_run(request: web.Request) -> web.Response:
        return web.json_response(run(world.job(request.match_info["id"], clock()), clock()))

    async def list_checkpoints(request: web.Request) -> web.Response:
        newest = world.checkpoints(request.match_info["id"], clock())[: world.shape.listed]
        items = [item for record in newest for item in checkpoints(record)]
        return web.json_response({"checkpoints": items, "cursor": None})

    return {
        "/training_runs": list_runs,
        "/training_runs/{id}": retrieve_run,
        "/training_runs/{id}/checkpoints": list_checkpoints,
    }


def _number(request: web.Request, name: str, default: int) -> int:
    given = request.query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,6}", given) or (name == "limit" and not 1 <= int(given) <= 100):
        raise RequestError(422, f"{name}: must be an integer from {1 if name == 'limit' else 0} to 100")
    return int(given)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
