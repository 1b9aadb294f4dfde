"""The lists of Tinker: `GET /training_runs`, and the checkpoints of each run."""

from collections.abc import Iterator, Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.simulator.lists import Clock, page_by_offset, time_text
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
        "last_request_time": time_text(record["finished_at"] or now),
        "user_metadata": record["metadata"],
    }


def checkpoints(record: Record) -> Iterator[Record]:
    """Yield the two checkpoints that a program saves at the step of a record of OpenAI's format."""
    job_id, name, made_at = record["fine_tuning_job_id"], f"step-{record['step_number']:06d}", record["created_at"]
    for kind, folder, lifetime in (("training", "weights", LIFETIME), ("sampler", "sampler_weights", None)):
        yield {
            "checkpoint_id": f"{folder}/{name}",
            "checkpoint_type": kind,
            "time": time_text(made_at),
            "tinker_path": f"tinker://{job_id}/{folder}/{name}",
            "size_bytes": 1_000_000 + record["step_number"],
            "public": False,
            "expires_at": time_text(made_at + lifetime) if lifetime else None,
        }


def handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers by path. The list of runs has pages, that of the checkpoints of a run is one page."""

    async def list_runs(request: web.Request) -> web.Response:
        runs = [run(record, clock()) for record in world.jobs(clock())]
        return web.json_response(page_by_offset(request, "training_runs", runs))

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
