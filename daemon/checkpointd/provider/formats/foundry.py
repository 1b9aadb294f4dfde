"""The format of Microsoft Foundry's fine-tuning sessions: `GET /fine_tuning/sessions/{id}/checkpoints`. A preview.

What is called a job elsewhere is a session here. What it lacks: the model name of a checkpoint, the times of a session,
and events. The list does not state the step and the metrics of a checkpoint, although both can be given when it is
saved: if they are stated one day, they are read. The id of a checkpoint is a name that a person chose.
"""

from operator import methodcaller
from typing import Final

from checkpointd.domain.checkpoint import Checkpoint, read_metrics
from checkpointd.domain.job import JobRecord, job_id
from checkpointd.domain.reading import Item, integer, text
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.items import checkpoint_id, checkpoint_reader, job_record_reader, time_text


def _read_checkpoint(item: Item) -> Checkpoint:
    return Checkpoint(
        id=item.require("checkpoint_id", checkpoint_id),
        step_number=item.read("step_number", integer),
        created_at=item.read("time", time_text),
        fine_tuned_model_checkpoint=None,
        metrics=read_metrics(item),
        payload=item.payload,
        details={"checkpoint_type": item.read("checkpoint_type", text)},
    )


def _read_record(item: Item) -> JobRecord:
    return JobRecord(
        id=item.require("session_id", job_id),
        status=item.read("status", text),
        model=item.read("base_model", text),
        fine_tuned_model=None,
        created_at=None,
        finished_at=None,
        estimated_finish=None,
        trained_tokens=None,
        hyperparameters=None,
        error=None,
        metadata=None,
        payload=item.payload,
        reject=None,
    )


FOUNDRY: Final = Format(
    checkpoints=ListFormat("/fine_tuning/sessions/{}/checkpoints", "whole", items="checkpoints"),
    reader=checkpoint_reader(_read_checkpoint, methodcaller("get", "checkpoint_id")),
    jobs=ListFormat("/fine_tuning/sessions", "offset"),
    read_record=job_record_reader(_read_record),
    filters=frozenset({"model", "status"}),
    passing_members=frozenset({"last_request_time"}),
)
