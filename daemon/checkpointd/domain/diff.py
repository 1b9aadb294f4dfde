"""What differs between a listing and what is stored: the heart of the copy's truth. Pure.

A value is compared with the item as it was last received, so that a null that stays null is one change, and with the
stored value, which is the last one known, so that a stored value can never stay wrong.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from checkpointd.domain.checkpoint import METRICS, Checkpoint
from checkpointd.domain.listing import Listing

Value = str | int | float | None


class Change(NamedTuple):
    """A row of the feed. `kind` is new, changed, regressed, missing or returned; a None `field` is the whole."""

    kind: str
    checkpoint_id: str
    field: str | None = None
    old_value: str | None = None
    new_value: str | None = None


class StoredCheckpoint(NamedTuple):
    """A stored checkpoint: the last known values, the item as last received, and whether it is marked missing."""

    values: Mapping[str, Value]
    received: Mapping[str, Value]
    payload: str
    missing: bool


@dataclass(slots=True)
class Diff:
    """What a save has to write for one job."""

    new: list[Checkpoint] = field(default_factory=list)
    updated: list[tuple[Checkpoint, bool]] = field(default_factory=list)
    """Items to overwrite, each with whether a value changed or only the bytes did."""
    marked: dict[str, bool] = field(default_factory=dict)
    """Checkpoints to mark missing (true) or listed again (false)."""
    pending: list[str] = field(default_factory=list)
    """Checkpoints that the last complete listing lacked, and no listing has shown since."""
    changes: list[Change] = field(default_factory=list)

    @property
    def touched(self) -> int:
        """How many known checkpoints changed, went missing or returned."""
        return len({c.checkpoint_id for c in self.changes if c.kind != "new"})


def values(item: Checkpoint) -> dict[str, Value]:
    """Return what an item says, by the names of the view's columns (extra_metrics.NAME for any other metric)."""
    said: dict[str, Value] = {
        "step_number": item.step_number,
        "created_at": item.created_at,
        "fine_tuned_model_checkpoint": item.fine_tuned_model_checkpoint,
    }
    for name, value in item.metrics.items():
        said[name if name in METRICS else f"extra_metrics.{name}"] = value
    return said


def compare(
    known: Mapping[str, StoredCheckpoint], listed: Listing, *, complete: bool, absent_before: Collection[str]
) -> Diff:
    """Compare a listing with what is stored of its job.

    `known` has at least every stored checkpoint that is listed or not yet missing. Only a complete listing can tell
    that one is absent, and only the second in a row (`absent_before`: what the last complete one lacked) makes it
    missing.
    """
    diff = Diff()
    for item in listed.items:
        stored = known.get(item.id)
        if stored is None:
            diff.new.append(item)
            diff.changes.append(Change("new", item.id))
            continue
        if stored.missing:
            diff.marked[item.id] = False
            diff.changes.append(Change("returned", item.id))
        changes = list(_changes(stored, item))
        if changes or stored.payload != item.payload:
            diff.updated.append((item, bool(changes)))
            diff.changes += changes
    present = {item.id for item in listed.items} | {r.id for r in listed.rejects}
    if not complete:
        diff.pending = [checkpoint_id for checkpoint_id in absent_before if checkpoint_id not in present]
        return diff
    if None in present or listed.foreign is not None:  # what could not be told apart may be any of them
        return diff
    for checkpoint_id, stored in known.items():
        if stored.missing or checkpoint_id in present:
            continue
        if checkpoint_id in absent_before:
            diff.marked[checkpoint_id] = True
            diff.changes.append(Change("missing", checkpoint_id))
        else:
            diff.pending.append(checkpoint_id)
    return diff


def _changes(stored: StoredCheckpoint, item: Checkpoint) -> Iterable[Change]:
    said = values(item)
    for name in {**stored.received, **said}:
        before, now = stored.received.get(name), said.get(name)
        if now is None:
            if before is not None:
                yield Change("regressed", item.id, name, _text(before), None)
        elif now != before:
            yield Change("changed", item.id, name, _text(before), _text(now))
        elif now != (last := stored.values.get(name)):
            yield Change("changed", item.id, name, _text(last), _text(now))


def _text(value: Value) -> str | None:
    """Return a value as PostgreSQL would show it: the number 100.0 as 100."""
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return None if value is None else str(value)
