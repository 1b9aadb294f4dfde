"""The events of a simulated job: its messages, and the metrics of its training steps.

They follow recorded answers. OpenAI sends an event for each step, with validation every ten steps and full_valid_* at
the end of an epoch. Azure sends all metrics every ten steps, without the number of all steps, and its messages have no
data. Bedrock trains by reinforcement. Events of up to three steps appear together, in the same second.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from checkpointd.simulator.curves import Curve
from checkpointd.simulator.shapes import OpenAI

Record = dict[str, Any]

BURST: Final = 3
"""How many steps are reported together."""

VALIDATION_STEPS: Final = 10
"""After how many steps the sample of the validation file is measured."""

_NAMES: Final = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "full_valid_loss": "full validation loss",
}


@dataclass(frozen=True, slots=True)
class Training:
    """What determines the events of a job. Times are in Unix seconds."""

    job: Record
    kind: OpenAI
    curve: Curve
    created_at: float
    validated_at: float
    started_at: float
    seconds: float
    """How long the training takes without a pause, if it is not cut short."""
    ended_at: float
    delayed: Callable[[float], float]
    """Returns the time of an event, with the pause, from its time without."""
    epoch_steps: int
    total_steps: int
    checkpoints: Mapping[int, tuple[float, Record]]
    """When each checkpoint is published, and its metrics, by its step."""

    @property
    def is_reinforcement(self) -> bool:
        """Whether the job is judged by rewards."""
        return bool(self.job["method"]["type"] == "reinforcement")


def plan_events(training: Training, rng: random.Random) -> list[tuple[float, Record]]:
    """Return the events of a job, the first one first, each with the time when it appears."""
    events = [*_messages(training), *_steps(training, rng)]
    return [(at, _event(training, rng, at, fields)) for at, fields in sorted(events, key=lambda event: event[0])]


def _event(training: Training, rng: random.Random, at: float, fields: Record) -> Record:
    return {
        "object": "fine_tuning.job.event",
        "id": training.kind.event_id(rng),
        "created_at": int(at),
        "level": "info",
        "type": "message",
        **training.kind.no_event_data,
        **fields,
    }


def _messages(training: Training) -> Iterator[tuple[float, Record]]:
    job, ended_at = training.job, training.ended_at
    yield training.created_at, {"message": f"Created fine-tuning job: {job['id']}"}
    yield training.created_at, {"message": f"Validating training file: {job['training_file']}"}
    if training.started_at <= ended_at:
        yield training.validated_at, {"message": "Files validated, moving job to queued state"}
        yield training.started_at, {"message": "Fine-tuning job started"}
    for step, (published_at, _) in training.checkpoints.items():
        if step < training.total_steps:
            yield published_at, {"message": f"Checkpoint created at step {step}"}
    if job["status"] == "succeeded":
        yield ended_at, {"message": "New fine-tuned model created"}
        yield ended_at, {"message": "The job has successfully completed"}
    elif job["status"] == "failed":
        yield ended_at, {"message": job["error"]["message"], "level": "error"}
    else:
        yield ended_at, {"message": "Fine-tuning job cancelled", "level": "warn"}


def _steps(training: Training, rng: random.Random) -> Iterator[tuple[float, Record]]:
    """Yield the reported steps until the end of the job."""
    kind, total = training.kind, training.total_steps
    for step in range(kind.step_distance, total + 1, kind.step_distance):
        together = min((step + BURST - 1) // BURST * BURST, total)
        at = training.delayed(training.started_at + training.seconds * together / total)
        if at > training.ended_at:
            return
        metrics = _metrics(training, rng, step)
        shown = f"{step}/{total}" if kind.says_total else str(step)
        losses = [f"{said}={metrics[name]:.2f}" for name, said in _NAMES.items() if name in metrics]
        data = {"step": step} | ({"total_steps": total} if kind.says_total else {}) | metrics
        yield (
            at,
            {
                "message": f"Step {shown}: {', '.join(losses) or 'training metrics'}",
                "type": "metrics",
                "data": data,
            },
        )


def _metrics(training: Training, rng: random.Random, step: int) -> Record:
    """Return the metrics that a step reports. At a checkpoint they are those of the checkpoint."""
    progress = step / training.total_steps
    if training.is_reinforcement:
        metrics = training.kind.rewards(rng, training.curve.reward(rng, progress))
    else:
        metrics = training.curve.metrics(rng, progress)
    if step in training.checkpoints:
        metrics |= training.checkpoints[step][1]
        metrics.pop("step", None)
    if training.job["validation_file"] is None:
        return {name: value for name, value in metrics.items() if "valid" not in name}
    if training.kind.step_distance > 1:
        return metrics
    is_last = step == training.total_steps
    has_valid, has_full_valid = step % VALIDATION_STEPS == 0 or is_last, step % training.epoch_steps == 0
    return {
        name: value
        for name, value in metrics.items()
        if "valid" not in name or (has_full_valid if name.startswith("full_valid") else has_valid)
    }
