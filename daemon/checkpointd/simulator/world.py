"""The jobs and checkpoints of the simulated provider, as a pure function of the seed and the simulated time.

Everything random is drawn when the world is created, with one generator per job. Later, only the time decides what is
visible. Records have the fields, types and nulls of OpenAI's published specification. The rest follows recorded
answers: each checkpoint has its own model suffix, the last one is the job's model itself, and some checkpoints and
metrics are published minutes after the checkpoint's `created_at`, even after the job has ended. Differences between
providers are in shapes.py. All times are in Unix seconds.
"""

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

from checkpointd.simulator.curves import Curve
from checkpointd.simulator.event_list import Training, plan_events
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.shapes import DEFAULT, OpenAI, Shape, alphanumeric

Record = dict[str, Any]

EPOCH: Final = 1_767_225_600.0
"""The start of simulated time: 2026-01-01. It is in the past, so that no checkpoint is in the future."""

_HOUR: Final = 3600.0
_UNFINISHED: Final[Record] = {
    "error": None,
    "fine_tuned_model": None,
    "finished_at": None,
    "trained_tokens": None,
}


class UnknownJobError(LookupError):
    """There is no job with this id at this time."""


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    record: Record  # with all its metrics
    published_at: float
    complete_at: float  # when the metrics full_valid_* are published

    def at(self, t: float) -> Record:
        if t >= self.complete_at:
            return self.record
        early = {name: value for name, value in self.record["metrics"].items() if not name.startswith("full_valid_")}
        return self.record | {"metrics": early}


@dataclass(frozen=True, slots=True)
class _Pause:
    start: float = math.inf
    end: float = math.inf

    def delayed(self, t: float) -> float:
        """Return the time of an event that would be at `t` without the pause."""
        return t if t < self.start else t + self.end - self.start

    def status(self, t: float) -> str | None:
        """Return the status of the job during the pause, or None outside of it. Pausing and resuming take 30 s each."""
        if not self.start <= t < self.end:
            return None
        return "pausing" if t < self.start + 30 else "paused" if t < self.end - 30 else "resuming"


@dataclass(frozen=True, slots=True)
class _Job:
    record: Record  # as it is after the end
    kind: OpenAI
    pause: _Pause
    created_at: float
    validated_at: float
    started_at: float
    estimated_finish: float
    ended_at: float
    checkpoints: tuple[_Checkpoint, ...]  # newest first
    training: Training

    def at(self, t: float) -> Record:
        if t >= self.ended_at:
            return self.record
        unfinished = self.record | _UNFINISHED | {"result_files": self.kind.no_result_files()}
        if status := self.pause.status(t):
            return unfinished | {"status": status}
        if t >= self.started_at:
            return unfinished | {"status": "running", "estimated_finish": int(self.estimated_finish)}
        return unfinished | {"status": self.kind.waiting[t >= self.validated_at]}


class World:
    """`jobs` jobs that are created at a steady rate from an hour before `started_at` to half an hour after it.

    At `started_at` some have ended, some are running, and some do not exist yet. A job trains for 20 to 90 minutes in 3
    to 10 epochs. It makes a checkpoint after each epoch, or as many per epoch as the shape has. A few jobs fail or are
    cancelled. Worlds with equal arguments are equal. The methods return the world's own records: do not change them.
    """

    def __init__(self, seed: int, jobs: int, started_at: float, shape: Shape = DEFAULT) -> None:
        self.shape: Final = shape
        organization = KINDS[shape.kind].organization(random.Random(f"{seed}"))
        planned = []
        for number in range(jobs):
            rng = random.Random(f"{seed}/{number}")
            created_at = started_at - _HOUR + (number + rng.random()) * 1.5 * _HOUR / jobs
            planned.append(_plan(rng, shape, organization, created_at))
        self._jobs: Final = {job.record["id"]: job for job in reversed(planned)}
        self._seeds: Final = {job.record["id"]: f"{seed}/{number}/events" for number, job in enumerate(planned)}
        self._events: Final[dict[str, tuple[list[float], list[Record]]]] = {}

    def jobs(self, t: float) -> list[Record]:
        """Return the `fine_tuning.job` records that exist at time `t`, newest first."""
        return [job.at(t) for job in self._jobs.values() if job.created_at <= t]

    def job(self, job_id: str, t: float) -> Record:
        """Return one `fine_tuning.job` record as of time `t`. Raises UnknownJobError."""
        return self._existing(job_id, t).at(t)

    def checkpoints(self, job_id: str, t: float) -> list[Record]:
        """Return the `fine_tuning.job.checkpoint` records published by time `t`, newest first. Raises UnknownJobError.

        The provider lists only the first `shape.listed` of them, but accepts the id of any as a cursor.
        """
        return [item.at(t) for item in self._existing(job_id, t).checkpoints if item.published_at <= t]

    def events(self, job_id: str, t: float) -> list[Record]:
        """Return the `fine_tuning.job.event` records that appeared by time `t`, newest first. Raises UnknownJobError.

        They are drawn when they are first asked for, because a job has thousands.
        """
        job = self._existing(job_id, t)
        if job_id not in self._events:
            planned = plan_events(job.training, random.Random(self._seeds[job_id]))
            self._events[job_id] = [at for at, _ in planned], [event for _, event in planned]
        times, events = self._events[job_id]
        return events[: bisect_right(times, t)][::-1]

    def _existing(self, job_id: str, t: float) -> _Job:
        job = self._jobs.get(job_id)
        if job is None or job.created_at > t:
            raise UnknownJobError(job_id)
        return job


def _plan(rng: random.Random, shape: Shape, organization: str | None, created_at: float) -> _Job:
    """Draw everything that happens to a job."""
    kind = KINDS[shape.kind]
    epochs, batch_size = rng.randint(3, 10), rng.choice([1, 2, 4, 8])
    validated_at = created_at + rng.uniform(20, 90)
    started_at = validated_at + (rng.uniform(300, 1500) if rng.random() < 0.25 else rng.uniform(5, 60))
    training = epochs * rng.uniform(400, 540)
    # After the last step the provider evaluates the model for some minutes.
    estimated_finish = started_at + training + rng.uniform(60, 300)
    status, ended_at, error = _fate(rng, validated_at, started_at, training) or ("succeeded", estimated_finish, None)
    pause = _pause(rng, started_at, training) if kind.pauses else _Pause()
    estimated_finish, ended_at = pause.delayed(estimated_finish), pause.delayed(ended_at)

    purpose = rng.choice(["support", "triage", "summaries", "sql", "tone"])
    base = rng.choice(["gpt-4o-mini-2024-07-18", "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano-2025-04-14"])
    model = kind.model(rng, base, purpose)
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": rng.choice([0.5, 1.0, 1.8, 2.0]),
    }
    record: Record = {
        "object": "fine_tuning.job",
        "id": kind.job_id(rng, model),
        "model": base,
        "created_at": int(created_at),
        "organization_id": organization,
        "training_file": _file(rng),
        "validation_file": _file(rng) if rng.random() < 0.75 else None,
        "hyperparameters": hyperparameters,
        "method": _method(random.Random(f"{model}/method"), shape, hyperparameters),
        "integrations": [],
        "seed": rng.randrange(2**31),
        "estimated_finish": None,
        "metadata": {"purpose": purpose},
        **_UNFINISHED,
        "result_files": [],
        "status": status,
        "error": error,
        "finished_at": int(ended_at),
    }
    spacing = training / epochs / shape.per_epoch
    curve = Curve.draw(rng)
    checkpoints = _train(rng, shape, record, curve, model, started_at, ended_at, spacing, pause)
    if status == "succeeded":
        record["fine_tuned_model"] = model
        record["result_files"] = [_file(rng)]
        record["trained_tokens"] = checkpoints[-1].record["step_number"] * batch_size * rng.randint(150, 900)
    made = tuple(item for item in reversed(checkpoints) if item.record["created_at"] <= ended_at)
    total_steps = checkpoints[-1].record["step_number"]
    published = {
        item.record["step_number"]: (item.published_at, item.record["metrics"]) for item in checkpoints if item in made
    }
    trained = Training(
        record, kind, curve, created_at, validated_at, started_at, training, ended_at, pause.delayed,
        total_steps // epochs, total_steps, published,
    )  # fmt: skip
    return _Job(record, kind, pause, created_at, validated_at, started_at, estimated_finish, ended_at, made, trained)


def _method(rng: random.Random, shape: Shape, hyperparameters: Record) -> Record:
    """Return how a job is trained."""
    if not KINDS[shape.kind].reinforces and rng.random() >= shape.reinforcement:
        return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    grader = {
        "type": "string_check",
        "name": "exact",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "operation": "eq",
    }
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


def _fate(
    rng: random.Random, validated_at: float, started_at: float, training: float
) -> tuple[str, float, Record | None] | None:
    """Return the last status of a job that does not succeed, when it ends, and its error; or None."""
    chance = rng.random()
    stopped_at = started_at + training * rng.uniform(0.3, 0.9)
    if chance < 0.05:
        message = "The job failed due to an invalid training file. Line 17 is not a chat completion example."
        return "failed", validated_at, {"code": "invalid_training_file", "message": message, "param": "training_file"}
    if chance < 0.10:
        message = "The job failed due to an internal error."
        return "failed", stopped_at, {"code": "server_error", "message": message, "param": None}
    if chance < 0.17:
        return "cancelled", stopped_at, None
    return None


def _pause(rng: random.Random, started_at: float, training: float) -> _Pause:
    """Return the pause of a job: of four in ten, for 5 to 15 minutes."""
    start = started_at + training * rng.uniform(0.1, 0.9)
    return _Pause(start, start + rng.uniform(300, 900)) if rng.random() < 0.4 else _Pause()


def _train(
    rng: random.Random,
    shape: Shape,
    job: Record,
    curve: Curve,
    model: str,
    started_at: float,
    ended_at: float,
    spacing: float,
    pause: _Pause,
) -> list[_Checkpoint]:
    """Return the checkpoints of a job as if it trained to its last step, `spacing` seconds apart, oldest first."""
    kind = KINDS[shape.kind]
    count, steps_between = job["hyperparameters"]["n_epochs"] * shape.per_epoch, rng.randint(20, 400)
    checkpoints = []
    for number in range(1, count + 1):
        step = steps_between * number
        made_at = pause.delayed(started_at + spacing * (number + rng.uniform(-0.03, 0.03)))
        # Complete at most 2.5 spacings later, which is before the third successor displaces this checkpoint.
        published_at = made_at + (spacing * rng.uniform(0.5, 1.5) if rng.random() < 0.2 else rng.uniform(1, 15))
        complete_at = published_at + (spacing * rng.uniform(0.1, 1.0) if rng.random() < 0.3 else 0)
        if shape.publication != "late":
            published_at = complete_at = made_at if shape.publication == "at-once" else ended_at + 2
        if job["method"]["type"] == "reinforcement":
            rewards = kind.rewards(rng, curve.reward(rng, number / count))
            metrics = {"step": step} | {name: value for name, value in rewards.items() if isinstance(value, float)}
        else:
            metrics = {"step": step} | curve.metrics(rng, number / count)
        if job["validation_file"] is None:
            metrics = {name: value for name, value in metrics.items() if "valid" not in name}
        intermediate_model = kind.intermediate_model(rng, model, step)
        record: Record = {
            "object": "fine_tuning.job.checkpoint",
            "id": kind.checkpoint_id(rng),
            "created_at": int(made_at),
            "fine_tuned_model_checkpoint": model if number == count else intermediate_model,
            "fine_tuning_job_id": job["id"],
            "metrics": {"step": step} if shape.bare_checkpoints else metrics,
            "step_number": step,
        }
        checkpoints.append(_Checkpoint(record, published_at, complete_at))
    return checkpoints


def _file(rng: random.Random) -> str:
    return "file-" + alphanumeric(rng, 22)
