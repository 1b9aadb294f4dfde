"""A checkpoint, and the strict reading of one item of a checkpoint list. Pure.

The reading is strict, because the driver of PostgreSQL converts values without an error: it stores 1.5 as 1, and true
as 1. Each item is read by itself, so that a bad item affects no other.
"""

import json
import math
import re
from collections.abc import Collection
from typing import Annotated, Any

import msgspec

RawItem = bytes | msgspec.Raw
"""The JSON text of one item, as received."""

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
MODEL_CHARACTERS = 64 * 1024
EXTRA_METRICS = 64
NAME_CHARACTERS = 128
DEPTH = 64
"""The limits of an item: its bytes; the characters of its model's name; metrics without a column; the characters of a
metric's name; nested objects and arrays."""

is_valid_id = re.compile(r"[\x21-\x7e]{1,256}").fullmatch
"""Matches 1 to 256 visible ASCII characters."""


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint as one item described it. `metrics` has every number that was sent, and None for each null."""

    id: str
    step_number: int
    created_at: int
    fine_tuned_model_checkpoint: str
    metrics: dict[str, float | None]
    payload: str
    """The JSON text of the item, which a column of type json accepts."""

    @property
    def extra_metrics(self) -> dict[str, float | None]:
        """The metrics without a column of their own."""
        return {name: value for name, value in self.metrics.items() if name not in METRICS}


class BadItemError(Exception):
    """An item cannot be read. The text is the reason."""


class ForeignItemError(Exception):
    """An item is not a checkpoint. The text is its type."""


_Bigint = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Item(msgspec.Struct, gc=False):
    """An item as specified. msgspec converts no value to another type."""

    object: str
    id: str
    created_at: _Bigint
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: _Bigint
    metrics: dict[str, float | None]


_ParsedItem = tuple[_Item, str, str | None]
"""An item, its payload, and its flaw or None."""

_decode_item = msgspec.json.Decoder(_Item).decode
_METRIC_COLUMNS = frozenset(METRICS)
_QUOTES_WITHOUT_METRICS = 2 * 7 + 2 * 4
"""The quotation marks of an item without metrics: around seven names and four strings."""


def read_checkpoint(raw: RawItem, job_id: str) -> tuple[Checkpoint, str | None]:
    """Read one item of the checkpoint list of a job.

    Returns the checkpoint, and a flaw or None. A flaw is the reason why a part of the item was dropped. Raises
    BadItemError or ForeignItemError.
    """
    if len(raw) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    item, payload, flaw = _read_as_specified(raw) or _read_each_member(bytes(raw))
    if item.object != OBJECT:
        raise ForeignItemError(_printable(item.object))
    if not is_valid_id(item.id):
        raise BadItemError("id: not 1 to 256 visible ASCII characters")
    if item.fine_tuning_job_id != job_id:
        raise BadItemError("fine_tuning_job_id: names another job")
    if not _METRIC_COLUMNS.issuperset(item.metrics):
        _check_names(item.metrics.keys() - _METRIC_COLUMNS)
    model = item.fine_tuned_model_checkpoint
    if "\0" in model or len(model) > MODEL_CHARACTERS:
        raise BadItemError(f"fine_tuned_model_checkpoint: has a NUL, or more than {MODEL_CHARACTERS} characters")
    return Checkpoint(item.id, item.step_number, item.created_at, model, item.metrics, payload), flaw


def read_stored(payload: str, job_id: str) -> Checkpoint | None:
    """Read the stored payload of a checkpoint. Returns None if this reader does not accept it."""
    try:
        return read_checkpoint(payload.encode(), job_id)[0]
    except (BadItemError, ForeignItemError):
        return None


def _read_as_specified(raw: RawItem) -> _ParsedItem | None:
    """Read an item that has exactly the specified members, each once. Returns None for any other."""
    try:
        item = _decode_item(raw)
        payload = str(raw, "utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    # An unknown or repeated member, a nested value or an escaped quotation mark adds quotation marks.
    has_only_specified_members = payload.count('"') == _QUOTES_WITHOUT_METRICS + 2 * len(item.metrics)
    return (item, payload, None) if has_only_specified_members else None


# Any other item is read by the standard library, which accepts more, and then checked member by member.


def _read_each_member(raw: bytes) -> _ParsedItem:
    try:
        payload = raw.decode()
        sent = json.loads(payload, object_pairs_hook=_unique_members, parse_int=_parse_int)
    except UnicodeDecodeError:
        raise BadItemError("not UTF-8") from None
    except RecursionError:
        raise BadItemError(f"nested deeper than {DEPTH}") from None
    except ValueError:
        raise BadItemError("not JSON") from None
    if not isinstance(sent, dict):
        raise BadItemError("not a JSON object")
    kind = _string(sent, "object")
    if kind != OBJECT:
        raise ForeignItemError(_printable(kind))
    flaw = None
    non_finite: dict[str, None] = {}
    members = {name: _without_non_finite(value, name, DEPTH - 1, non_finite) for name, value in sent.items()}
    if non_finite:
        # JSON has no NaN and Infinity. The payload has null instead; the bytes as received are kept as a reject.
        flaw = f"not finite: {', '.join(non_finite)}"[:200]
        payload = json.dumps(members, separators=(",", ":"))
        if len(payload) > ITEM_BYTES:
            raise BadItemError(flaw)
    item = _Item(
        object=kind,
        id=_string(members, "id"),
        created_at=_integer(members, "created_at"),
        fine_tuned_model_checkpoint=_string(members, "fine_tuned_model_checkpoint"),
        fine_tuning_job_id=_string(members, "fine_tuning_job_id"),
        step_number=_integer(members, "step_number"),
        metrics=_metrics(members.get("metrics")),
    )
    return item, payload, flaw


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object. A member may be repeated with an equal value; NaN equals NaN here."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value and json.dumps(found[name]) != json.dumps(value):
            raise BadItemError(f"{_printable(name)}: given twice with different values")
        found[name] = value
    return found


def _parse_int(digits: str) -> float:
    """Return an integer, or a float if it is far beyond 64 bits: int() raises an error for thousands of digits."""
    return int(digits) if len(digits) < 64 else float(digits)


def _without_non_finite(value: object, name: str, depth: int, non_finite: dict[str, None]) -> object:
    """Return a value with None for each NaN and Infinity in it, and add their names to `non_finite`, in order.

    Raises BadItemError if the value is nested deeper than `depth`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        non_finite[_printable(name)] = None
        return None
    if not isinstance(value, (dict, list)):
        return value
    if depth == 0:
        raise BadItemError(f"nested deeper than {DEPTH}")
    if isinstance(value, dict):
        return {key: _without_non_finite(inner, key, depth - 1, non_finite) for key, inner in value.items()}
    return [_without_non_finite(inner, name, depth - 1, non_finite) for inner in value]


def _string(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise BadItemError(f"{name}: not a string" if name in members else f"{name}: missing")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadItemError(f"{name}: has a lone surrogate (half a character)") from None
    return value


def _integer(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadItemError(f"{name}: not an integer" if name in members else f"{name}: missing")
    if not -(2**63) <= value < 2**63:
        raise BadItemError(f"{name}: does not fit in 64 bits")
    return value


def _metrics(sent: object) -> dict[str, float | None]:
    """Return the metrics that are a number or null. Others without a column stay in the payload only."""
    if sent is None:
        return {}
    if not isinstance(sent, dict):
        raise BadItemError("metrics: not an object")
    found: dict[str, float | None] = {}
    for name, value in sent.items():
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[name] = None if value is None else float(value)
        elif name in _METRIC_COLUMNS:
            raise BadItemError(f"metrics.{name}: not a number")
    return found


def _check_names(extra_metrics: Collection[str]) -> None:
    if len(extra_metrics) > EXTRA_METRICS:
        raise BadItemError(f"metrics: more than {EXTRA_METRICS} beside the specified ones")
    if any(len(name) > NAME_CHARACTERS or not name.isprintable() for name in extra_metrics):
        raise BadItemError(f"metrics: a name is not printable, or longer than {NAME_CHARACTERS} characters")


def _printable(name: str) -> str:
    """Return a name that the provider sent, in a form that can be shown in a reason."""
    return name[:NAME_CHARACTERS] if name.isprintable() else "an unprintable name"
