"""What differs between a listing and the stored checkpoints of its job. Pure.

Each value is compared with two others. The first is the value in the stored item: if a metric becomes null and stays
null, that is one change, and not one in each poll. The second is the stored value, which is the last known one: if it
is wrong for any reason, it is corrected. An item is stored again only if one of its values changed, so the stored item
has the values that were received last. Of an unstable job (growth.py) it also has values that were not stored as such.

So the old value of a change is the last known one, and never one that only an item had. It is null if the stored item
has no value: then a change `regressed` has recorded that, or there never was one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.domain.checkpoint import METRICS, Checkpoint
from checkpointd.domain.listing import Listing

Value = str | int | float | None


MOST_CHANGES: Final = 20_000
"""So many changes are compared in one listing, and then no further checkpoint. The next poll finds the others."""


class Change(NamedTuple):
    """A row of the feed. `kind` is new, changed, regressed, missing or returned.

    The database stores missing as expired if it is after the expiry of the checkpoint, by its clock.

    If `field` is None, the change concerns the checkpoint as a whole.
    """

    kind: str
    checkpoint_id: str
    field: str | None = None
    old_value: str | None = None
    new_value: str | None = None


class StoredCheckpoint(NamedTuple):
    """A stored checkpoint: the last known values, those of the stored item, and whether it is marked missing."""

    values: Mapping[str, Value]
    received: Mapping[str, Value]
    missing: bool


@dataclass(slots=True)
class Diff:
    """What a save has to write for one job."""

    new: list[Checkpoint] = field(default_factory=list)
    updated: list[Checkpoint] = field(default_factory=list)
    """Stored checkpoints of which a value changed."""
    marked: dict[str, bool] = field(default_factory=dict)
    """Checkpoints to mark as missing (true) or as listed again (false), by id."""
    absent: list[str] = field(default_factory=list)
    """Checkpoints that were not in the last complete listing. No incomplete listing since then has contained them."""
    changes: list[Change] = field(default_factory=list)
    instability: int = 0
    """The score of instability after this listing: see growth.py."""
    is_cut_off: bool = False
    """True if the listing has more changes than MOST_CHANGES. So it counts as incomplete."""
    unconfirmed_steps: list[int] = field(default_factory=list)
    """Steps of an unstable job that are unknown and not larger than all others. A checkpoint with such a step is stored
    when the next complete listing has it, too."""

    @property
    def changed(self) -> int:
        """How many stored checkpoints changed, went missing or returned."""
        return len({change.checkpoint_id for change in self.changes if change.kind != "new"})


def values(checkpoint: Checkpoint) -> dict[str, Value]:
    """Return the values of a checkpoint by column of the view `checkpoints`; extra metrics are extra_metrics.NAME."""
    found: dict[str, Value] = {
        "step_number": checkpoint.step_number,
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.fine_tuned_model_checkpoint,
    }
    for name, value in checkpoint.metrics.items():
        found[metric_column(name)] = value
    return found | checkpoint.details if checkpoint.details else found


def metric_column(name: str) -> str:
    """Return the key of a metric in values()."""
    return name if name in METRICS else f"extra_metrics.{name}"


def compare(
    stored: Mapping[str, StoredCheckpoint], listing: Listing, *, complete: bool, absent_before: Collection[str]
) -> Diff:
    """Compare a listing with the stored checkpoints of its job.

    `stored` has at least every stored checkpoint that is listed or not yet missing. A checkpoint becomes missing if two
    complete listings in a row lack it. `absent_before` are the ids that the last complete listing lacked.
    """
    diff = Diff()
    for checkpoint in until_full(diff, listing.checkpoints):
        known = stored.get(checkpoint.id)
        if known is None:
            diff.new.append(checkpoint)
            diff.changes.append(Change("new", checkpoint.id))
            continue
        if known.missing:
            diff.marked[checkpoint.id] = False
            diff.changes.append(Change("returned", checkpoint.id))
        if changes := list(_changes(known, checkpoint)):
            diff.updated.append(checkpoint)
            diff.changes += changes
    listed = {checkpoint.id for checkpoint in listing.checkpoints} | {reject.id for reject in listing.rejects}
    if not complete or diff.is_cut_off:
        diff.absent = [checkpoint_id for checkpoint_id in absent_before if checkpoint_id not in listed]
        return diff
    if None in listed or listing.foreign is not None:  # an item without an id may be any checkpoint
        return diff
    for checkpoint_id, known in stored.items():
        if known.missing or checkpoint_id in listed:
            continue
        if checkpoint_id in absent_before:
            diff.marked[checkpoint_id] = True
            diff.changes.append(Change("missing", checkpoint_id))
        else:
            diff.absent.append(checkpoint_id)
    return diff


def until_full(diff: Diff, checkpoints: Iterable[Checkpoint]) -> Iterator[Checkpoint]:
    """Yield the checkpoints to compare, until there are MOST_CHANGES in the diff."""
    for checkpoint in checkpoints:
        if len(diff.changes) >= MOST_CHANGES:
            diff.is_cut_off = True
            return
        yield checkpoint


def _changes(known: StoredCheckpoint, checkpoint: Checkpoint) -> Iterable[Change]:
    received = values(checkpoint)
    for name in {**known.received, **received}:
        before, now = known.received.get(name), received.get(name)
        last = known.values.get(name)
        if now is None:
            if before is not None and last is not None:
                yield Change("regressed", checkpoint.id, name, as_text(last), None)
        elif before is None:
            yield Change("changed", checkpoint.id, name, None, as_text(now))
        elif now != last:
            yield Change("changed", checkpoint.id, name, as_text(last), as_text(now))


def as_text(value: Value) -> str | None:
    """Return a value as PostgreSQL shows it: 100.0 as 100."""
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return None if value is None else str(value)
