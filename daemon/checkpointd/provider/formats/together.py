"""Together's format: `GET /fine-tunes/{id}/checkpoints`.

What it lacks: the id and the metrics of a checkpoint, and pages: each list is one. A checkpoint is identified by its
path, because checkpoints of two types can have the same step. The metrics of the steps are a list of their own, without
ids, with one object for training and another one for evaluation. They are stored as steps, and never as metrics of a
checkpoint of the same step, because Together does not state that. Its events have no ids, and are not read.
"""

import json
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, Final

from checkpointd.domain.checkpoint import EXTRA_METRICS, Checkpoint
from checkpointd.domain.event import STEP_METRICS, STEP_PAYLOAD_BYTES, Step
from checkpointd.domain.event_list import Events
from checkpointd.domain.job import JobRecord, job_id
from checkpointd.domain.raw_item import head, without_secrets
from checkpointd.domain.reading import (
    NAME_CHARACTERS,
    BadItemError,
    Item,
    Odd,
    RawItem,
    Reject,
    integer,
    number,
    text,
)
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.items import checkpoint_id, checkpoint_reader, item_of, job_record_reader, time_text

HYPERPARAMETERS: Final = (
    "n_epochs", "n_checkpoints", "n_evals", "batch_size", "learning_rate", "lr_scheduler", "warmup_ratio",
    "max_grad_norm", "weight_decay", "packing", "max_seq_length", "training_method", "training_type",
)  # fmt: skip
"""The members of a job record that OpenAI would put into `hyperparameters`."""


def _read_checkpoint(item: Item) -> Checkpoint:
    return Checkpoint(
        id=item.require("path", checkpoint_id),
        step_number=item.require("step", integer),
        created_at=item.read("created_at", time_text),
        fine_tuned_model_checkpoint=None,
        metrics={},
        payload=item.payload,
        details={"checkpoint_type": item.read("checkpoint_type", text), "deploy_as": item.read("object_name", text)},
    )


def _read_record(item: Item) -> JobRecord:
    """Read a job record. The time of the end and the estimate are None: Together states neither as a time."""
    hyperparameters = {name: item.members[name] for name in HYPERPARAMETERS if item.members.get(name) is not None}
    return JobRecord(
        id=item.require("id", job_id),
        status=item.read("status", text),
        model=item.read("model", text),
        fine_tuned_model=item.read("model_output_name", text),
        created_at=item.read("created_at", time_text),
        finished_at=None,
        estimated_finish=None,
        trained_tokens=item.read("token_count", integer),
        hyperparameters=item.document("hyperparameters", hyperparameters or None),
        error=None,
        metadata=None,
        payload=item.payload,
        reject=None,
    )


def read_metrics_list(items: Sequence[RawItem], holds_secret: Callable[[bytes], bool]) -> Events:
    """Read the metrics of a job: one step for all objects with the same step number, with the values of all of them.

    Its id is made of the step number. `train/loss` is `train_loss`; all other numbers keep their names.
    """
    found: dict[int, list[tuple[Item, RawItem]]] = {}
    rejects: list[Reject] = []
    for raw in without_secrets(items, holds_secret, rejects):
        try:
            item = item_of(raw)
            name = next((name for name in _STEP_NAMES if item.members.get(name) is not None), _STEP_NAMES[0])
            found.setdefault(item.require(name, integer), []).append((item, raw))
        except BadItemError as e:
            rejects.append(Reject(head(raw), str(e), None))
    steps = []
    for step_number, of_step in found.items():
        step = _step(step_number, [item for item, _ in of_step])
        steps.append(step)
        rejects += [Reject(head(raw), flaw, step.id, is_stored=True) for item, raw in of_step if (flaw := item.flaw)]
    return Events(steps, [], rejects, [step.id for step in steps], is_newest_first=False)


_STEP_NAMES: Final = ("train/global_step", "eval/global_step")
_NO_METRICS: Final = frozenset({*_STEP_NAMES, "timestamp"})


def _step(step_number: int, items: Sequence[Item]) -> Step:
    """Return the step that some objects describe. Of a metric given twice the last one counts."""
    metrics: dict[str, float] = {}
    created_at: int | None = None
    for item in items:
        created_at = item.keep("timestamp", _nanoseconds(item.members.get("timestamp"))) or created_at
        for name, value in item.members.items():
            if name in _NO_METRICS:
                continue
            metric = item.keep(name, number(value))
            if metric is not None and len(name) <= NAME_CHARACTERS and name.isprintable():
                metrics[name] = metric
    train_loss = metrics.pop("train/loss", None)
    extra = {name: metrics[name] for name in sorted(metrics)[:EXTRA_METRICS]}
    payload = items[0].payload if len(items) == 1 else f"[{','.join(item.payload for item in items)}]"
    return Step(
        step_number=step_number,
        id=f"step-{step_number}",
        created_at=created_at,
        total_steps=None,
        extra_metrics=json.dumps(extra) if extra else None,
        payload=payload if len(payload.encode()) <= STEP_PAYLOAD_BYTES else None,
        **{name: train_loss if name == "train_loss" else None for name in STEP_METRICS},
    )


def _nanoseconds(value: Any) -> int | Odd | None:  # noqa: ANN401  # any JSON
    """Return a time of nanoseconds as whole Unix seconds."""
    found = integer(value)
    return found // 10**9 if isinstance(found, int) else found


TOGETHER: Final = Format(
    checkpoints=ListFormat("/fine-tunes/{}/checkpoints", "whole", null_is_empty=True),
    reader=checkpoint_reader(_read_checkpoint, methodcaller("get", "path")),
    jobs=ListFormat("/fine-tunes", "whole", null_is_empty=True),
    read_record=job_record_reader(_read_record),
    filters=frozenset({"model", "suffix", "status", "created_after"}),
    events=ListFormat("/fine-tunes/{}/metrics", "whole", items="metrics", null_is_empty=True),
    read_events=read_metrics_list,
)
