"""One item of a checkpoint list: its bytes → a checkpoint, read strictly and alone: a bad one costs only itself.

Strict, because PostgreSQL and its drivers are not: they store 1.5 as 1, and true as 1. Pure.
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
"""The metrics that have a column each: the seven of the published specification."""

OBJECT = "fine_tuning.job.checkpoint"
ITEM_BYTES = 256 * 1024
TEXT_CHARACTERS = 64 * 1024
EXTRA_METRICS = 64
NAME_CHARACTERS = 128
DEPTH = 64

_COLUMNS = frozenset(METRICS)
_Bigint = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
is_valid_id = re.compile(r"[\x21-\x7e]{1,256}").fullmatch


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint as one item gave it. `metrics` has every number that was sent, and None for a null."""

    id: str
    step_number: int
    created_at: int
    fine_tuned_model_checkpoint: str
    metrics: dict[str, float | None]
    payload: str
    """The item's JSON, fit for a column of type json."""

    @property
    def extra_metrics(self) -> dict[str, float | None]:
        """The metrics without a column of their own."""
        return {name: value for name, value in self.metrics.items() if name not in METRICS}


class _Strict(msgspec.Struct, gc=False):
    """Item as the specification has it, nothing coerced."""

    object: str
    id: str
    created_at: _Bigint
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: _Bigint
    metrics: dict[str, float | None]


_decode_strictly = msgspec.json.Decoder(_Strict).decode
_QUOTES = 2 * 7 + 2 * 4
"""As many has an item without metrics: around seven names and four texts."""


class BadItemError(Exception):
    """Says what is wrong with an item."""


class ForeignItemError(Exception):
    """Names the type of an item that is no checkpoint."""


def read_checkpoint(raw: RawItem, job_id: str) -> tuple[Checkpoint, str | None]:
    """Read one item; the second value is a flaw that does not cost the rest of it."""
    flaw = None
    if len(raw) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    try:
        strict = _decode_strictly(raw)
        payload = str(raw, "utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        strict, payload, flaw = _read_carefully(bytes(raw))
    else:
        # No quotes but those: nothing unknown, doubled or nested. Else a closer look.
        if payload.count('"') != _QUOTES + 2 * len(strict.metrics):
            strict, payload, flaw = _read_carefully(bytes(raw))
    if strict.object != OBJECT:
        raise ForeignItemError(_name(strict.object))
    if not is_valid_id(strict.id):
        raise BadItemError("id: empty, too long, or with blanks or characters beyond ASCII")
    if strict.fine_tuning_job_id != job_id:
        raise BadItemError("fine_tuning_job_id: names another job")
    if not _COLUMNS.issuperset(strict.metrics):
        _check_names(strict.metrics.keys() - _COLUMNS)
    model = strict.fine_tuned_model_checkpoint
    if "\0" in model or len(model) > TEXT_CHARACTERS:
        raise BadItemError("fine_tuned_model_checkpoint: a NUL character, or too long")
    return Checkpoint(strict.id, strict.step_number, strict.created_at, model, strict.metrics, payload), flaw


# The closer look: the standard library's reader, which lets odd values through to be judged one by one.


def _read_carefully(raw: bytes) -> tuple[_Strict, str, str | None]:
    flaw = None
    try:
        payload = raw.decode()
        sent = json.loads(payload, object_pairs_hook=_unambiguous, parse_int=_whole)
    except UnicodeDecodeError:
        raise BadItemError("no UTF-8") from None
    except RecursionError:
        raise BadItemError(f"nested deeper than {DEPTH}") from None
    except ValueError:
        raise BadItemError("no JSON") from None
    if not isinstance(sent, dict):
        raise BadItemError("not an object")
    kind = _text(sent, "object")
    if kind != OBJECT:
        raise ForeignItemError(_name(kind))
    odd: dict[str, None] = {}
    item = {name: _finite(value, name, DEPTH - 1, odd) for name, value in sent.items()}
    if odd:
        # NaN and Infinity are no JSON: the columns get null in their place, the bytes go to rejects.
        flaw = f"not finite: {', '.join(odd)}"[:200]
        payload = json.dumps(item, separators=(",", ":"))
        if len(payload) > ITEM_BYTES:
            raise BadItemError(flaw)
    strict = _Strict(
        object=kind,
        id=_text(item, "id"),
        created_at=_integer(item, "created_at"),
        fine_tuned_model_checkpoint=_text(item, "fine_tuned_model_checkpoint"),
        fine_tuning_job_id=_text(item, "fine_tuning_job_id"),
        step_number=_integer(item, "step_number"),
        metrics=_metrics(item.get("metrics")),
    )
    return strict, payload, flaw


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value and json.dumps(found[key]) != json.dumps(value):
            raise BadItemError(f"{_name(key)}: given twice, differently")
        found[key] = value
    return found


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < 64 else float(digits)  # thousands of digits would be refused


def _finite(value: object, name: str, left: int, odd: dict[str, None]) -> object:
    """Return a value, nested at most `left` deep, with None for what is no finite number, and note their names."""
    if isinstance(value, float) and not math.isfinite(value):
        odd[_name(name)] = None
        return None
    if not isinstance(value, (dict, list)):
        return value
    if left == 0:
        raise BadItemError(f"nested deeper than {DEPTH}")
    if isinstance(value, dict):
        return {key: _finite(v, key, left - 1, odd) for key, v in value.items()}
    return [_finite(v, name, left - 1, odd) for v in value]


def _text(item: dict[str, Any], field: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise BadItemError(f"{field}: missing" if field not in item else f"{field}: no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadItemError(f"{field}: half a character (a lone surrogate)") from None
    return value


def _integer(item: dict[str, Any], field: str) -> int:
    value = item.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadItemError(f"{field}: missing" if field not in item else f"{field}: no whole number")
    if not -(2**63) <= value < 2**63:
        raise BadItemError(f"{field}: beyond 64 bits")
    return value


def _metrics(sent: object) -> dict[str, float | None]:
    if sent is None:
        return {}
    if not isinstance(sent, dict):
        raise BadItemError("metrics: no object")
    found: dict[str, float | None] = {}
    for name, value in sent.items():
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[name] = None if value is None else float(value)
        elif name in _COLUMNS:
            raise BadItemError(f"metrics.{name}: no number")
    return found  # the others are kept in the payload


def _check_names(metrics: Collection[str]) -> None:
    if len(metrics) > EXTRA_METRICS:
        raise BadItemError(f"metrics: more than {EXTRA_METRICS} others")
    if any(len(name) > NAME_CHARACTERS or not name.isprintable() for name in metrics):
        raise BadItemError("metrics: a name too long or unprintable")


def _name(key: str) -> str:
    return key[:NAME_CHARACTERS] if key.isprintable() else "a name"


def read_stored(payload: str, job_id: str) -> Checkpoint | None:
    """Read an item as it was stored; None where this reader would not take it."""
    try:
        return read_checkpoint(payload.encode(), job_id)[0]
    except (BadItemError, ForeignItemError):
        return None
