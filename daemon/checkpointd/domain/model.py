"""A model in a provider's list of models, and when it is shut down. Pure."""

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Final, NamedTuple

from checkpointd.domain.raw_item import LARGEST_ITEM, without_secrets
from checkpointd.domain.reading import BadItemError, Item, Odd, RawItem, text

MODEL_CHARACTERS: Final = 256
"""The longest name of a model. The index of the table checkpointd.jobs has no more of it."""


class Model(NamedTuple):
    """A model whose item states `shutdown_date`, which is None if the model is not shut down."""

    id: str
    shutdown_date: date | None


def read_models(items: Sequence[RawItem], holds_secret: Callable[[bytes], bool] = lambda _: False) -> list[Model]:
    """Read the models that state `shutdown_date`: YYYY-MM-DD or null. What cannot be read is left out."""
    models = []
    for raw in without_secrets(items, holds_secret, rejects=[]):
        if len(raw) > LARGEST_ITEM:
            continue
        try:
            item = Item(bytes(raw))
            model_id = item.require("id", text)
        except BadItemError:
            continue
        day = _day(item.members.get("shutdown_date", ""))
        if not isinstance(day, Odd) and "shutdown_date" not in item.odd and len(model_id) <= MODEL_CHARACTERS:
            models.append(Model(model_id, day))
    return models


def _day(value: object) -> date | Odd | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):  # nor the day of a week
        return Odd("not a day")
    try:
        return date.fromisoformat(value)
    except ValueError:
        return Odd("not a day")
