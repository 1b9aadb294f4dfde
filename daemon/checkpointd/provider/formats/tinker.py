"""Tinker's format: `GET /training_runs/{id}/checkpoints`. SkyRL's server has it, too.

What is called a job elsewhere is a training run here. What it lacks: the step, the metrics and the model name of a
checkpoint; the status of a run, so it ends by silence; and events. The id of a checkpoint is a name that a person
chose. If the name is used again, the checkpoint has another time, which is a change of the same checkpoint.
"""

from collections.abc import Mapping
from datetime import UTC
from functools import partial
from typing import Final

from checkpointd.domain.checkpoint import Checkpoint
from checkpointd.domain.job import JobRecord, job_id
from checkpointd.domain.reading import Item, integer, text
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.items import checkpoint_id, checkpoint_reader, job_record_reader, time_text

_utc: Final = partial(time_text, zone=UTC)
"""Reads a time. SkyRL's server stores UTC, and with SQLite it leaves the zone out."""


def _find_id(members: Mapping[str, object]) -> object:
    """Return the id with its folder, such as weights/000100.

    SkyRL's server leaves the folder out, and can list one name twice, for training and for sampling. Then the folder is
    taken from the path, which is tinker://RUN/FOLDER/NAME.
    """
    name, path = members.get("checkpoint_id"), members.get("tinker_path")
    if isinstance(name, str) and "/" not in name and isinstance(path, str):
        _, _, full_name = path.removeprefix("tinker://").partition("/")
        return full_name if full_name.endswith(f"/{name}") else name
    return name


def _read_checkpoint(item: Item) -> Checkpoint:
    return Checkpoint(
        id=item.require("checkpoint_id", lambda _: checkpoint_id(_find_id(item.members))),
        step_number=None,
        created_at=item.read("time", _utc),
        fine_tuned_model_checkpoint=None,
        metrics={},
        payload=item.payload,
        details={
            "checkpoint_type": item.read("checkpoint_type", text),
            "deploy_as": item.read("tinker_path", text),
            "expires_at": item.read("expires_at", _utc),
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
    reader=checkpoint_reader(_read_checkpoint, _find_id),
    jobs=ListFormat("/training_runs", "offset", items="training_runs"),
    read_record=job_record_reader(_read_record),
    filters=frozenset({"model", "metadata"}),
    passing_members=frozenset({"last_request_time"}),
)
