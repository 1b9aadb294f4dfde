"""One item of a checkpoint list: its bytes → a checkpoint, read strictly and alone: a bad one costs only itself.

Source of the rules: reference reliability, 3.3. Pure.
"""

import json
import math
import re
from typing import Annotated, Any

import msgspec

from checkpointd.envelope import Raw

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

_Bigint = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
is_sane_id = re.compile(r"[\x21-\x7e]{1,256}").fullmatch


class Item(msgspec.Struct, frozen=True, gc=False):
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
_FIELDS = len(_Strict.__struct_fields__)


class BadItemError(Exception):
    """Says what is wrong with an item."""


class ForeignItemError(Exception):
    """Names the type of an item that is no checkpoint."""


def read_item(raw: Raw, job_id: str) -> tuple[Item, str | None]:
    """Read one item; the second value is a flaw that does not cost the rest of it."""
    flaw = None
    try:
        strict = _decode_strictly(raw)
        payload = str(raw, "utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        strict, payload, flaw = _read_carefully(bytes(raw))
    else:
        # As many colons as fields: nothing unknown, doubled or nested. Else a closer look.
        if payload.count('":') != _FIELDS + len(strict.metrics):
            strict, payload, flaw = _read_carefully(bytes(raw))
    if strict.object != OBJECT:
        raise ForeignItemError(strict.object[:60])
    if not is_sane_id(strict.id):
        raise BadItemError("id: empty, too long, or with blanks or characters beyond ASCII")
    if strict.fine_tuning_job_id != job_id:
        raise BadItemError("fine_tuning_job_id: names another job")
    if len(payload) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    model = strict.fine_tuned_model_checkpoint
    if "\0" in model or len(model) > TEXT_CHARACTERS:
        raise BadItemError("fine_tuned_model_checkpoint: a NUL character, or too long")
    return Item(strict.id, strict.step_number, strict.created_at, model, strict.metrics, payload), flaw


# The closer look: the standard library's reader, which lets odd values through to be judged one by one.


def _read_carefully(raw: bytes) -> tuple[_Strict, str, str | None]:
    if len(raw) > ITEM_BYTES:
        raise BadItemError(f"larger than {ITEM_BYTES} bytes")
    try:
        payload = raw.decode()
        item = json.loads(payload, object_pairs_hook=_unambiguous)
        if _too_deep(item, DEPTH):
            raise BadItemError(f"nested deeper than {DEPTH}")
    except UnicodeDecodeError:
        raise BadItemError("no UTF-8") from None
    except RecursionError:
        raise BadItemError(f"nested deeper than {DEPTH}") from None
    except ValueError:
        raise BadItemError("no JSON") from None
    if not isinstance(item, dict):
        raise BadItemError("not an object")
    metrics, flaw = _metrics(item.get("metrics"))
    strict = _Strict(
        object=_text(item, "object"),
        id=_text(item, "id"),
        created_at=_integer(item, "created_at"),
        fine_tuned_model_checkpoint=_text(item, "fine_tuned_model_checkpoint"),
        fine_tuning_job_id=_text(item, "fine_tuning_job_id"),
        step_number=_integer(item, "step_number"),
        metrics=metrics,
    )
    if flaw:
        # NaN and Infinity are no JSON: the column gets null in their place, the bytes go to rejects.
        payload = json.dumps(json.loads(payload, parse_constant=lambda _: None), ensure_ascii=True)
    return strict, payload, flaw


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and json.dumps(found[key]) != json.dumps(value):
            raise BadItemError(f"{_name(key)}: given twice, differently")
        found[key] = value
    return found


def _too_deep(value: object, left: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return left == 0 or any(_too_deep(v, left - 1) for v in (value.values() if isinstance(value, dict) else value))


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


def _metrics(sent: object) -> tuple[dict[str, float | None], str | None]:
    """Return the numeric metrics, those that are no finite number as None, and which those are."""
    if sent is None:
        return {}, None
    if not isinstance(sent, dict):
        raise BadItemError("metrics: no object")
    found: dict[str, float | None] = {}
    odd = []
    for name, value in sent.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            if name in METRICS:
                raise BadItemError(f"metrics.{name}: no number")
            continue  # kept in the payload
        if name not in METRICS and (len(name) > NAME_CHARACTERS or not name.isprintable()):
            raise BadItemError("metrics: a name too long or unprintable")
        number = _number(value)
        found[name] = number
        if value is not None and number is None:
            odd.append(name)
    if len(found.keys() - set(METRICS)) > EXTRA_METRICS:
        raise BadItemError(f"metrics: more than {EXTRA_METRICS} others")
    return found, f"not finite: {', '.join(odd)}" if odd else None


def _number(value: float | None) -> float | None:
    try:
        number = None if value is None else float(value)
    except OverflowError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _name(key: str) -> str:
    return key[:NAME_CHARACTERS] if key.isprintable() else "a name"


def reread(payload: str, job_id: str) -> Item | None:
    """Read an item as it was stored; None where this reader would not take it."""
    try:
        return read_item(payload.encode(), job_id)[0]
    except (BadItemError, ForeignItemError):
        return None
