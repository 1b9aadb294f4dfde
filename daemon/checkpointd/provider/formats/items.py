"""Read the items of formats other than OpenAI's, value by value, by the rules of domain/reading.py. Pure."""

from collections.abc import Callable

from checkpointd.domain.checkpoint import ITEM_BYTES, Checkpoint, CheckpointReader, is_valid_id
from checkpointd.domain.json_text import outer_members
from checkpointd.domain.reading import BadItemError, Item, Odd, RawItem, text


def checkpoint_reader(read_values: Callable[[Item], Checkpoint], id_name: str) -> CheckpointReader:
    """Return the reader of checkpoints whose id is the member `id_name`. `read_values` may raise BadItemError."""

    def read_of_any_size(raw: RawItem, _: str) -> tuple[Checkpoint, str | None]:
        item = Item(bytes(raw))
        return read_values(item), item.flaw

    def read(raw: RawItem, job_id: str) -> tuple[Checkpoint, str | None]:
        if len(raw) > ITEM_BYTES:
            raise BadItemError(f"larger than {ITEM_BYTES} bytes")
        return read_of_any_size(raw, job_id)

    def id_of(raw: RawItem) -> str | None:
        found = outer_members(bytes(raw)).get(id_name) if len(raw) <= ITEM_BYTES else None
        return found if isinstance(found, str) and is_valid_id(found) else None

    return CheckpointReader(read, read_of_any_size, id_of)


def checkpoint_id(value: object) -> str | Odd | None:
    """Return the id of a checkpoint. This is a rule for a value, as those of domain/reading.py."""
    found = text(value)
    is_odd = isinstance(found, str) and not is_valid_id(found)
    return Odd("not 1 to 256 visible ASCII characters") if is_odd else found
