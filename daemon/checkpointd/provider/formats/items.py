"""Read the items of formats other than OpenAI's, value by value, by the rules of domain/reading.py. Pure."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo

from checkpointd.domain.checkpoint import ITEM_BYTES, Checkpoint, CheckpointReader, is_valid_id
from checkpointd.domain.job import JobRecord, ReadRecord
from checkpointd.domain.json_text import outer_members
from checkpointd.domain.raw_item import LARGEST_ITEM, head
from checkpointd.domain.reading import BadItemError, Item, Odd, RawItem, Reject, text


def checkpoint_reader(
    read_values: Callable[[Item], Checkpoint], find_id: Callable[[Mapping[str, object]], object]
) -> CheckpointReader:
    """Return the reader of checkpoints. `find_id` returns the id, given the members of an item.

    `read_values` may raise BadItemError.
    """

    def read_of_any_size(raw: RawItem, _: str) -> tuple[Checkpoint, str | None]:
        item = Item(bytes(raw))
        return read_values(item), item.flaw

    def read(raw: RawItem, _: str) -> tuple[Checkpoint, str | None]:
        item = item_of(raw)
        return read_values(item), item.flaw

    def id_of(raw: RawItem) -> str | None:
        found = find_id(outer_members(bytes(raw))) if len(raw) <= ITEM_BYTES else None
        return found if isinstance(found, str) and is_valid_id(found) else None

    return CheckpointReader(read, read_of_any_size, id_of)


def item_of(raw: RawItem, most_bytes: int = ITEM_BYTES) -> Item:
    """Return an item of a list. Raises BadItemError if it is larger than `most_bytes`, or not a JSON object."""
    if len(raw) > most_bytes:
        raise BadItemError(f"larger than {most_bytes} bytes")
    return Item(bytes(raw))


def checkpoint_id(value: object) -> str | Odd | None:
    """Return the id of a checkpoint. This is a rule for a value, as those of domain/reading.py."""
    found = text(value)
    is_odd = isinstance(found, str) and not is_valid_id(found)
    return Odd("not 1 to 256 visible ASCII characters") if is_odd else found


def job_record_reader(read_values: Callable[[Item], JobRecord]) -> ReadRecord:
    """Return the reader of job records. `read_values` may raise BadItemError."""

    def read(raw: RawItem) -> JobRecord:
        item = item_of(raw, LARGEST_ITEM)
        record = read_values(item)
        return record._replace(reject=Reject(head(raw), item.flaw, record.id, is_stored=True)) if item.flaw else record

    return read


def time_text(value: object, zone: tzinfo | None = None) -> int | Odd | None:
    """Return a time as whole Unix seconds, from a text in the form of RFC 3339.

    A text without a zone is odd, unless `zone` is given.
    """
    found = text(value)
    if not isinstance(found, str):
        return found
    try:
        at = datetime.fromisoformat(found.upper())  # RFC 3339 permits t and z
        at = at if at.tzinfo else at.replace(tzinfo=zone)
        return math.floor(at.timestamp()) if at.tzinfo else Odd("a time without a zone")
    except (ValueError, OverflowError):
        return Odd("not a time")
