"""Claim the lists of models of sources, and save when models are shut down."""

from collections.abc import Sequence
from typing import Final

from checkpointd.domain.model import Model
from checkpointd.postgres import queries
from checkpointd.postgres.store import Store

MOST_MODELS: Final = 10_000
"""The most models of a source that are stored, so that a list that invents names does not fill the database."""


async def claim(store: Store, source: int) -> bool:
    """Return whether the list of models of a source is to be read now, by this daemon."""
    return bool(await store.fetch(queries.CLAIM_MODEL_LIST, source))


async def save(store: Store, source: int, models: Sequence[Model]) -> int:
    """Save when models are shut down. Returns how many were left out, because there are too many."""
    ids, days = [model.id for model in models], [model.shutdown_date for model in models]
    (row,) = await store.fetch(queries.SAVE_MODELS, source, ids, days, MOST_MODELS)
    return int(row["left_out"])
