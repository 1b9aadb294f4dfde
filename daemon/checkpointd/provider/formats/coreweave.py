"""The format of CoreWeave's Serverless Training, which was W&B's: `GET /models/{id}/checkpoints`.

The parent of a checkpoint is a model. What is called a job elsewhere is a model here: its id is that of the model.

What it lacks: the time and the model name of a checkpoint; a list of models, so each one must be tracked by its id; a
status, so training ends by silence; and events, because they belong to training jobs, which no list names.
"""

from operator import methodcaller
from typing import Final

from checkpointd.domain.checkpoint import Checkpoint, read_metrics
from checkpointd.domain.reading import Item, integer
from checkpointd.provider.formats.format import Format, ListFormat
from checkpointd.provider.formats.items import checkpoint_id, checkpoint_reader


def _read_values(item: Item) -> Checkpoint:
    return Checkpoint(
        id=item.require("id", checkpoint_id),
        step_number=item.require("step", integer),
        created_at=None,
        fine_tuned_model_checkpoint=None,
        metrics=read_metrics(item),
        payload=item.payload,
    )


COREWEAVE: Final = Format(
    checkpoints=ListFormat("/models/{}/checkpoints"),
    reader=checkpoint_reader(_read_values, methodcaller("get", "id")),
    filters=frozenset(),
)
