"""An event of a job: the metrics of a training step, or a message. Reads one item of an event list. Pure.

The rules for values are those of reading.py. The important values are `id` and, in an event of type `metrics`, the
step, if there is one. An event that has a step becomes a Step, any other a Message.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from checkpointd.domain.checkpoint import EXTRA_METRICS, ITEM_BYTES, METRICS, ForeignItemError, is_valid_id
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

EVENT_OBJECT: Final = "fine_tuning.job.event"
"""The value of `object` in every event."""

STEP_METRICS: Final = METRICS[1:]
"""The metrics of a step with a column. The first one of METRICS, `step`, is the number of the step."""


STEP_BYTES: Final = 4 * 1024
"""The most bytes of the numbers of a step without a column. In an event of Bedrock's they have some hundred."""

STEP_PAYLOAD_BYTES: Final = 16 * 1024
"""The most bytes of the payload of a step: enough for the nested scores of a hundred graders, but less than another
payload may have, because a job can have a million steps.
"""


class Step(msgspec.Struct, frozen=True, gc=False):
    """The metrics of a training step as one event reports them. A metric that it does not report is None."""

    step_number: int
    id: str
    created_at: int | None
    """In Unix seconds."""
    total_steps: int | None
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None
    extra_metrics: str | None
    """All other numbers by name, as a JSON object, or None."""
    payload: str | None
    """The event as received, or None if the other fields can reproduce it or it is larger than STEP_PAYLOAD_BYTES."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """An event without metrics of a step."""

    id: str
    created_at: int | None
    """In Unix seconds."""
    level: str | None
    type: str | None
    message: str | None
    payload: str | None
    """The event as received, or None if the other fields can reproduce it."""


_Bigint = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_CHARACTERS)]


class _Item(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An item as specified. msgspec converts no value to another type."""

    object: Literal["fine_tuning.job.event"]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    created_at: _Bigint
    level: _Text
    message: _Text
    type: _Text
    data: dict[str, float | None] | msgspec.UnsetType | None = msgspec.UNSET


_decode_items = msgspec.json.Decoder(list[_Item]).decode
_QUOTES_WITHOUT_DATA: Final = 2 * 6 + 2 * 5
"""The quotation marks of an item without `data`: around six names and five strings."""

_SAID: Final = {
    "training loss": "train_loss",
    "validation loss": "valid_loss",
    "full validation loss": "full_valid_loss",
}
"""What the message of a step calls its metrics."""

_ROUNDED: Final = [f"%.{decimals}f" for decimals in range(21)]
"""The format of a number by its decimals."""


def read_event(raw: RawItem) -> tuple[Step | Message, str | None]:
    """Read one item of an event list.

    Returns the event, and a flaw or None. A flaw names the values that are odd, and therefore None or left out. Raises
    BadItemError if an important value is odd: ForeignItemError for an item of another type.
    """
    if len(raw) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    events = read_as_specified([raw])
    return (events[0], None) if events else _read_each_value(bytes(raw))


def read_as_specified(items: Sequence[RawItem]) -> list[Step | Message] | None:
    """Read items that have exactly the specified members, each once, and nothing odd: several at once, for speed.

    Returns None if one of them is different, or if they have more than ITEM_BYTES together.
    """
    text = b",".join(items)
    if len(text) > ITEM_BYTES or b"\\" in text:
        return None
    events: list[Step | Message] = []
    quotes = 0
    try:
        found = _decode_items(b"[%b]" % text)
        for item, raw in zip(found, items, strict=True):
            data = item.data
            if data is not msgspec.UNSET:
                quotes += 2 + 2 * len(data or ())
            event = _step_as_specified(item, data, raw) if data else _message_as_specified(item)
            if event is None:
                return None
            events.append(event)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    # A member that is repeated adds quotation marks. Nothing can take some away.
    is_once = text.count(b'"') == quotes + len(items) * _QUOTES_WITHOUT_DATA
    ids = "".join([event.id for event in events])
    return events if is_once and ids.isascii() and ids.isprintable() and " " not in ids else None


def _message_as_specified(item: _Item) -> Message | None:
    is_step = item.type == "metrics"
    return None if is_step else Message(item.id, item.created_at, item.level, item.type, item.message, None)


def _step_as_specified(item: _Item, data: Mapping[str, float | None], raw: RawItem) -> Step | None:
    value = data.get
    step, total_steps = _exact(value("step")), _exact(value("total_steps"))
    if (
        step is None
        or (total_steps is None and "total_steps" in data)
        or item.type != "metrics"
        or len(raw) > STEP_BYTES
    ):
        return None
    extra_metrics = None
    if not _COLUMNS.issuperset(data):
        extra = {name: metric for name, metric in data.items() if name not in _COLUMNS}
        if len(extra) > EXTRA_METRICS or not all(map(_is_extra, extra, extra.values())):
            return None
        extra_metrics = json.dumps(extra)
    is_repeated = item.level == "info" and _only_repeats(item.message, step, total_steps, data)
    return Step(
        step,
        item.id,
        item.created_at,
        total_steps,
        value("train_loss"),
        value("train_mean_token_accuracy"),
        value("valid_loss"),
        value("valid_mean_token_accuracy"),
        value("full_valid_loss"),
        value("full_valid_mean_token_accuracy"),
        extra_metrics,
        None if is_repeated else str(raw, "utf-8"),
    )


_COLUMNS: Final = frozenset({*METRICS, "total_steps"})
_EXACT: Final = 2.0**53


def _exact(value: float | None) -> int | None:
    """Return a number as an integer, or None if it is not an integer to which no other one is rounded."""
    return int(value) if value is not None and -_EXACT < value < _EXACT and value.is_integer() else None


def _is_extra(name: str, value: float | None) -> bool:
    return value is not None and len(name) <= NAME_CHARACTERS and name.isprintable()


def _only_repeats(message: str, step: int, total_steps: int | None, data: Mapping[str, float | None]) -> bool:
    """Return whether the message of a step says nothing but what its data has, with its numbers rounded."""
    place = f"Step {step}" if total_steps is None or total_steps < 0 else f"Step {step}/{total_steps}"
    loss = data.get("train_loss")
    if loss is not None and message == f"{place}: training loss={loss:.2f}":  # the usual message
        return True
    said_place, _, values = message.partition(": ")
    if said_place not in {place, f"Step {step}"}:
        return False
    if values == "training metrics":
        return True
    for part in values.split(", "):
        name, _, said = part.partition("=")
        value = data.get(_SAID.get(name, ""))
        if value is None or not _is_rounded(said, value):
            return False
    return True


def _is_rounded(said: str, value: float) -> bool:
    decimals = len(said.partition(".")[2])
    return (decimals < len(_ROUNDED) and said == _ROUNDED[decimals] % value) or said == str(value)


def _read_each_value(raw: bytes) -> tuple[Step | Message, str | None]:
    item = Item(raw)
    kind = item.members.get("object")
    if isinstance(kind, str) and kind not in {EVENT_OBJECT, ""}:
        raise ForeignItemError(printable(kind))
    item.read("object", text)
    event_id = item.require("id", text)
    if not is_valid_id(event_id):
        raise BadItemError("id: not 1 to 256 visible ASCII characters")
    created_at = item.read("created_at", time)
    level, event_type, message = (item.read(name, text) for name in ("level", "type", "message"))
    data = item.members.get("data")
    if data is not None and not isinstance(data, dict):
        item.keep("data", Odd("not an object"))
    event: Step | Message
    if event_type == "metrics" and isinstance(data, dict) and ("data.step" in item.odd or data.get("step") is not None):
        event = _step(item, event_id, created_at, data)
    else:
        payload = None if not item.odd and _is_plain(item.members) else item.payload
        event = Message(event_id, created_at, level, event_type, message, payload)
    return event, item.flaw


def _is_plain(members: Mapping[str, Any]) -> bool:
    """Return whether the columns of a message can reproduce an event with these members."""
    names = {"id", "object", "created_at", "level", "type", "message"}
    return members.keys() - {"data"} == names and members.get("object") == EVENT_OBJECT and not members.get("data")


def _step(item: Item, event_id: str, created_at: int | None, data: Mapping[str, Any]) -> Step:
    """Return the step of an event that is not as specified. Its payload is kept, unless it is too large."""
    step = integer(data.get("step"))
    if step is None or isinstance(step, Odd):
        raise BadItemError(f"data.step: {step.reason if step else item.odd['data.step']}")
    extra: dict[str, float] = {}
    for name, value in data.items():
        metric = number(value)
        if name in _COLUMNS or metric is None or isinstance(metric, Odd):
            continue
        if len(name) > NAME_CHARACTERS or not name.isprintable():
            item.keep("data", Odd(f"a name is not printable, or longer than {NAME_CHARACTERS} characters"))
        else:
            extra[name] = metric
    if len(extra) > EXTRA_METRICS:  # the first by name: the same ones in each answer, whatever their order
        item.keep("data", Odd(f"more than {EXTRA_METRICS} numbers beside the specified ones"))
        extra = {name: extra[name] for name in sorted(extra)[:EXTRA_METRICS]}
    total_steps = item.keep("data.total_steps", integer(data.get("total_steps")))
    metrics = {name: item.keep(f"data.{name}", number(data.get(name))) for name in STEP_METRICS}
    return Step(
        step_number=step,
        id=event_id,
        created_at=created_at,
        total_steps=total_steps,
        extra_metrics=_bounded(item, "data", json.dumps(extra), STEP_BYTES) if extra else None,
        payload=_bounded(item, "the event", item.payload, STEP_PAYLOAD_BYTES),
        **metrics,
    )


def _bounded(item: Item, name: str, document: str, most: int) -> str | None:
    is_large = len(document.encode()) > most
    return item.keep(name, Odd(f"not kept as received: more than {most} bytes")) if is_large else document
