"""A checkpoint, and the reading of one item of a checkpoint list, by the rules of reading.py. Pure."""

import re
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from checkpointd.domain.json_text import outer_members
from checkpointd.domain.raw_item import names_of_large
from checkpointd.domain.reading import (
    NAME_CHARACTERS,
    TEXT_CHARACTERS,
    BadItemError,
    Item,
    Odd,
    RawItem,
    integer,
    number,
    printable,
    text,
    time,
)  # fmt: skip

METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""The metrics with a column of their own: the seven of OpenAI's published specification."""

OBJECT = "fine_tuning.job.checkpoint"
"""The value of `object` in every checkpoint."""

ITEM_BYTES = 256 * 1024
EXTRA_METRICS = 64
"""The most bytes of an item, and its most metrics without a column."""

is_valid_id = re.compile(r"[\x21-\x7e]{1,256}").fullmatch
"""Matches 1 to 256 visible ASCII characters."""


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint as one item described it.

    `created_at` is in Unix seconds. `metrics` has every number that was sent, and None for each null.
    """

    id: str
    step_number: int | None
    created_at: int | None
    fine_tuned_model_checkpoint: str | None
    metrics: dict[str, float | None]
    payload: str
    """The JSON text of the item, which a column of type json accepts: as received, or with null for odd values."""
    details: dict[str, str | int | float | None] | None = None
    """Further values that are compared, by name. OpenAI's format has none."""

    @property
    def position(self) -> int:
        """What orders the checkpoints of a job: the step or, of a provider without steps, `created_at`."""
        return (self.created_at or 0) if self.step_number is None else self.step_number

    @property
    def extra_metrics(self) -> dict[str, float | None]:
        """The metrics without a column of their own."""
        return {name: value for name, value in self.metrics.items() if name not in METRICS}


class ForeignItemError(BadItemError):
    """An item is not a checkpoint. `kind` is its type."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"object: {kind}")
        self.kind = kind


_Bigint = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_CHARACTERS)]


class _Item(msgspec.Struct, gc=False):
    """An item as specified. msgspec converts no value to another type."""

    object: str
    id: str
    created_at: _Bigint
    fine_tuned_model_checkpoint: _Text
    fine_tuning_job_id: str
    step_number: _Bigint
    metrics: dict[str, float | None]


_decode_item = msgspec.json.Decoder(_Item).decode
_METRIC_COLUMNS = frozenset(METRICS)
_QUOTES_WITHOUT_METRICS = 2 * 7 + 2 * 4
"""The quotation marks of an item without metrics: around seven names and four strings."""


def read_checkpoint(raw: RawItem, job_id: str) -> tuple[Checkpoint, str | None]:
    """Read one item of the checkpoint list of a job.

    Returns the checkpoint, and a flaw or None. A flaw names the values that are odd, and therefore None or left out.
    The important values are `object`, `id`, `step_number`, and `fine_tuning_job_id` if it is given. Raises BadItemError
    if one of them is odd: ForeignItemError for another type.
    """
    if len(raw) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    checkpoint = _read_as_specified(raw, job_id)
    return (checkpoint, None) if checkpoint else _read_each_value(bytes(raw), job_id)


def _read_of_any_size(raw: RawItem, job_id: str) -> tuple[Checkpoint, str | None]:
    checkpoint = _read_as_specified(raw, job_id)
    return (checkpoint, None) if checkpoint else _read_each_value(bytes(raw), job_id)


def _id_of(raw: RawItem) -> str | None:
    """Return the id of an item that has the type of a checkpoint, or None. One without id may be any checkpoint."""
    if len(raw) > ITEM_BYTES:
        found, kind = names_of_large(raw)
    else:
        sent = outer_members(bytes(raw))
        found, kind = sent.get("id"), sent.get("object")
    if kind != OBJECT:
        return None
    return found if isinstance(found, str) and is_valid_id(found) else None


def _read_as_specified(raw: RawItem, job_id: str) -> Checkpoint | None:
    """Read an item that has exactly the specified members, each once, and nothing odd. Returns None for any other."""
    try:
        item = _decode_item(raw)
        payload = str(raw, "utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    is_as_specified = (
        item.object == OBJECT
        and item.fine_tuning_job_id == job_id
        and is_valid_id(item.id)
        and "\0" not in item.fine_tuned_model_checkpoint
        and _METRIC_COLUMNS.issuperset(item.metrics)
        # An unknown or repeated member, a nested value or an escaped quotation mark adds quotation marks.
        and payload.count('"') == _QUOTES_WITHOUT_METRICS + 2 * len(item.metrics)
    )
    if not is_as_specified:
        return None
    return Checkpoint(
        item.id, item.step_number, item.created_at, item.fine_tuned_model_checkpoint, item.metrics, payload
    )


def _read_each_value(raw: bytes, job_id: str) -> tuple[Checkpoint, str | None]:
    item = Item(raw)
    kind = item.members.get("object")
    if isinstance(kind, str) and kind not in {OBJECT, ""}:
        raise ForeignItemError(printable(kind))
    item.require("object", text)
    checkpoint_id = item.require("id", text)
    if not is_valid_id(checkpoint_id):
        raise BadItemError("id: not 1 to 256 visible ASCII characters")
    named_job = item.members.get("fine_tuning_job_id")
    if "fine_tuning_job_id" in item.odd or named_job not in (None, "", job_id):
        raise BadItemError("fine_tuning_job_id: names another job")
    checkpoint = Checkpoint(
        id=checkpoint_id,
        step_number=item.require("step_number", integer),
        created_at=item.read("created_at", time),
        fine_tuned_model_checkpoint=item.read("fine_tuned_model_checkpoint", text),
        metrics=read_metrics(item),
        payload=item.payload,
    )
    return checkpoint, item.flaw


def read_metrics(item: Item) -> dict[str, float | None]:
    """Return the metrics of an item that are a number or null.

    A value of another type is odd if its metric has a column. Without a column, it is no metric, and stays in the
    payload only.
    """
    sent = item.members.get("metrics")
    if sent is None:
        return {}
    if not isinstance(sent, dict):
        item.keep("metrics", Odd("not an object"))
        return {}
    found, extra = {}, {}
    for name, value in sent.items():
        metric = number(value)
        if name in _METRIC_COLUMNS:
            found[name] = item.keep(f"metrics.{name}", metric)
        elif isinstance(metric, Odd):
            continue
        elif len(name) > NAME_CHARACTERS or not name.isprintable():
            item.keep("metrics", Odd(f"a name is not printable, or longer than {NAME_CHARACTERS} characters"))
        else:
            extra[name] = metric
    if len(extra) > EXTRA_METRICS:  # the first by name: the same ones in each answer, whatever their order
        item.keep("metrics", Odd(f"more than {EXTRA_METRICS} beside the specified ones"))
        extra = {name: extra[name] for name in sorted(extra)[:EXTRA_METRICS]}
    return found | extra


class CheckpointReader(NamedTuple):
    """How the checkpoints of a wire format are read. Each function gets an item and, except the last, the job's id."""

    read: Callable[[RawItem, str], tuple[Checkpoint, str | None]]
    """Reads an item of a listing. See read_checkpoint()."""
    read_of_any_size: Callable[[RawItem, str], tuple[Checkpoint, str | None]]
    """The same, for a stored item: its text can be longer than the item was."""
    id_of: Callable[[RawItem], str | None]
    """Returns the id of an item that cannot be read, or None."""

    def read_stored(self, payload: str, job_id: str) -> Checkpoint | None:
        """Read the stored payload of a checkpoint. Returns None if this reader does not accept it."""
        try:
            return self.read_of_any_size(payload.encode(), job_id)[0]
        except BadItemError:
            return None


OPENAI_READER: Final = CheckpointReader(read_checkpoint, _read_of_any_size, _id_of)
"""The reader of OpenAI's format."""
