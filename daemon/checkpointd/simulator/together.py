"""The lists of Together: `GET /fine-tunes`, and the checkpoints and the metrics of each job."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.simulator.lists import Clock
from checkpointd.simulator.world import Record, World

_ENDS: Final = {"succeeded": "completed", "failed": "error"}


def job(record: Record) -> Record:
    """Return a job as Together describes it, from a record of OpenAI's format."""
    hyperparameters = record["hyperparameters"]
    ended_at, created_at = record["finished_at"], record["created_at"]
    return {
        "id": record["id"],
        "status": _ENDS.get(record["status"], record["status"]),
        "created_at": _time(created_at),
        "updated_at": _time(ended_at or created_at),
        "user_id": "user-simulated",
        "model": record["model"],
        "model_output_name": record["fine_tuned_model"],
        "n_epochs": hyperparameters["n_epochs"],
        "n_checkpoints": hyperparameters["n_epochs"],
        "batch_size": hyperparameters["batch_size"],
        "learning_rate": 1e-5 * hyperparameters["learning_rate_multiplier"],
        "token_count": record["trained_tokens"],
        "training_file": record["training_file"],
        "validation_file": record["validation_file"],
        "training_type": {"type": "Lora", "lora_r": 8, "lora_alpha": 16},
    }


def checkpoints(record: Record, finished: Record) -> Iterator[Record]:
    """Yield the checkpoints that Together lists for a record of OpenAI's format: two at the last step, else one.

    `finished` is the record of its job.
    """
    step, job_id = record["step_number"], record["fine_tuning_job_id"]
    is_final = record["fine_tuned_model_checkpoint"] == finished["fine_tuned_model"]
    kinds = [("Final Merged", "model"), ("Final Adapter", "adapter")] if is_final else [("Intermediate", "adapter")]
    for label, artifact in kinds:
        yield {
            "step": step,
            "created_at": _time(record["created_at"]),
            "path": f"s3://together-simulated/{job_id}/{artifact}/step-{step}",
            "checkpoint_type": label,
            "checkpoint": artifact,
            "object_name": f"acme/{job_id}-{artifact}-{step}",
        }


def metrics(event: Record) -> Iterator[Record]:
    """Yield the metrics of a step: one object of training and, if it was evaluated, one of evaluation."""
    data = event["data"]
    shared = {"timestamp": event["created_at"] * 10**9, "train/global_step": data["step"]}
    yield shared | {"train/loss": data["train_loss"], "train/epoch": round(data["step"] / data["total_steps"], 6)}
    if "valid_loss" in data:
        yield shared | {"eval/loss": data["valid_loss"]}


def handlers(world: World, clock: Clock) -> Mapping[str, Handler]:
    """Return the handlers by path. Each list is one page; one without items is null."""

    async def list_jobs(_: web.Request) -> web.Response:
        return web.json_response({"data": list(map(job, world.jobs(clock())))})

    async def retrieve_job(request: web.Request) -> web.Response:
        return web.json_response(job(world.job(request.match_info["id"], clock())))

    async def list_checkpoints(request: web.Request) -> web.Response:
        job_id, now = request.match_info["id"], clock()
        newest = world.checkpoints(job_id, now)[: world.shape.listed]
        items = [item for record in newest for item in checkpoints(record, world.job(job_id, now))]
        return web.json_response({"data": items or None})

    async def list_metrics(request: web.Request) -> web.Response:
        events = reversed(world.events(request.match_info["id"], clock()))
        items = [item for event in events if event["type"] == "metrics" for item in metrics(event)]
        return web.json_response({"metrics": items or None})

    return {
        "/fine-tunes": list_jobs,
        "/fine-tunes/{id}": retrieve_job,
        "/fine-tunes/{id}/checkpoints": list_checkpoints,
        "/fine-tunes/{id}/metrics": list_metrics,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
