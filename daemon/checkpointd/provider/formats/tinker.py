"""Tinker's format: `GET /training_runs/{id}/checkpoints`. SkyRL's server has it, too.

What is called a job elsewhere is a training run here. What it lacks: the step, the metrics and the model name of a
checkpoint; the status of a run, so it ends by silence; and events. The id of a checkpoint is a name that a person
chose. If the name is used again, the checkpoint has another time, which is a change of the same checkpoint.
"""

from typing import Final

from checkpointd.domain.checkpoint import Checkpoint
from checkpointd.domain.job import JobRecord, job_id
from checkpointd.domain.reading import Item, integer, text
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.items import checkpoint_id, checkpoint_reader, job_record_reader, time_text


def _read_checkpoint(item: Item) -> Checkpoint:
    return Checkpoint(
        id=item.require("checkpoint_id", checkpoint_id),
        step_number=None,
        created_at=item.read("time", time_text),
        fine_tuned_model_checkpoint=None,
        metrics={},
        payload=item.payload,
        details={
            "checkpoint_type": item.read("checkpoint_type", text),
            "deploy_as": item.read("tinker_path", text),
            "expires_at": item.read("expires_at", time_text),
            "size_bytes": item.read("size_bytes", integer),
        },
    )


def _read_record(item: Item) -> JobRecord:
    """Read a training run. The time of its last request is neither that of its start nor that of its end."""
    return JobRecord(
        id=item.require("training_run_id", job_id),
        status=None,
        model=item.read("base_model", text),
        fine_tuned_model=None,
        created_at=None,
        finished_at=None,
        estimated_finish=None,
        trained_tokens=None,
        hyperparameters=None,
        error=None,
        metadata=item.document("user_metadata", item.members.get("user_metadata")),
        payload=item.payload,
        reject=None,
    )


TINKER: Final = Format(
    checkpoints=ListFormat("/training_runs/{}/checkpoints", "whole_or_offset", items="checkpoints"),
    reader=checkpoint_reader(_read_checkpoint, "checkpoint_id"),
    jobs=ListFormat("/training_runs", "offset", items="training_runs"),
    read_record=job_record_reader(_read_record),
    passing_members=frozenset({"last_request_time"}),
)
