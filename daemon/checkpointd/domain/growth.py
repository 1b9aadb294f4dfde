"""What bounds the rows of a job whose list never stabilises. Pure.

Some providers send new ids, times or values at each request. If each were stored, the rows of a job would grow for
ever. So a job has a score of instability. It rises with each unsteady listing, and falls slowly with each steady one.
While it is high the job is unstable: of its listings only the news are stored. News are a checkpoint with an unknown
step, and a value of a known checkpoint that was null until now.

A late row, a late metric or a correction is legal. It happens a few times, and then the list is steady again.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from checkpointd.domain.checkpoint import EXTRA_METRICS, Checkpoint
from checkpointd.domain.diff import (
    Change,
    Diff,
    StoredCheckpoint,
    as_text,
    compare,
    metric_column,
    until_full,
    values,
)
from checkpointd.domain.listing import Listing
from checkpointd.domain.reading import Reject

UNSTEADY_POINTS: Final = 50
"""The points of an unsteady listing. A steady one takes off one point, so 50 of them make up for an unsteady one."""
UNSTABLE_POINTS: Final = 250
"""A job with at least this score is unstable: five unsteady listings in a row, or one in 50 for long."""
RECOVERY_LISTINGS: Final = 20
"""An unstable job is stable again after this many steady listings in a row."""
MOST_POINTS: Final = UNSTABLE_POINTS + RECOVERY_LISTINGS - 1
"""The largest score."""

CHECKPOINTS_PER_JOB: Final = 10_000
"""A job with so many stored checkpoints is unstable for ever. So many different steps of a job are stored at most;
checkpoints with further ones become rejects. Jobs have one for each epoch, or some hundred, so only a provider that
makes up ids or steps reaches this."""


class JobBefore(NamedTuple):
    """A job before a listing is compared."""

    instability: int
    content_digest: bytes | None
    """The content digest of the last complete listing."""
    absent_ids: Collection[str]
    """The checkpoints that the last complete listing lacked."""
    unconfirmed_steps: Collection[int]
    """See Diff.unconfirmed_steps."""
    checkpoints: int
    """The number of stored checkpoints."""
    steps: int
    """The number of their different steps, or a larger number that is less than CHECKPOINTS_PER_JOB."""


def is_unstable(instability: int) -> bool:
    """Return whether a job with this score is unstable."""
    return instability >= UNSTABLE_POINTS


def next_score(instability: int, *, unsteady: bool) -> int:
    """Return the score of a job after an unsteady or a steady listing."""
    if unsteady:
        risen = instability + UNSTEADY_POINTS
        return MOST_POINTS if is_unstable(risen) else risen
    if instability == UNSTABLE_POINTS:
        # The next listing is compared in full, which may count as unsteady once more.
        return UNSTABLE_POINTS - 2 * UNSTEADY_POINTS
    return max(instability - 1, 0)


def examine(
    before: JobBefore, stored: Mapping[str, StoredCheckpoint], listing: Listing, content_digest: bytes | None
) -> tuple[Diff, Listing]:
    """Compare a listing with the stored checkpoints of its job, within the limits of this module.

    `stored` is that of compare(). `content_digest` is None if the listing is incomplete. Returns what has to be
    written, and the listing with a reject for each checkpoint that is too many.
    """
    complete = content_digest is not None
    is_crowded = before.checkpoints >= CHECKPOINTS_PER_JOB
    if is_crowded or is_unstable(before.instability):
        diff = find_news(stored, listing, before.unconfirmed_steps)
        unsteady = complete and content_digest != before.content_digest
    else:
        diff = compare(stored, listing, complete=complete, absent_before=before.absent_ids)
        unsteady = _is_unsteady(diff, stored, listing, before.absent_ids)
    newest = _newest_step(stored)
    if grown := sum(checkpoint.position > newest for checkpoint in diff.new):
        known_steps = {_step(known.values) for known in stored.values()}
        unsteady = sum(checkpoint.position in known_steps for checkpoint in diff.new) > grown
    diff.instability = before.instability
    if is_crowded:
        diff.instability = MOST_POINTS
    elif unsteady or (complete and not grown):
        diff.instability = next_score(before.instability, unsteady=unsteady)
    room = max(CHECKPOINTS_PER_JOB - before.steps, 0)
    return (diff, listing) if len(diff.new) <= room else _limit(diff, listing, room)


def find_news(
    stored: Mapping[str, StoredCheckpoint], listing: Listing, unconfirmed_before: Collection[int] = ()
) -> Diff:
    """Compare a listing of an unstable job with its stored checkpoints. Nothing but news is in the diff.

    A checkpoint under a new id is the stored one that has its step and model. If none has both, it is the one that has
    its step. A checkpoint with an unknown step is new at once if the step is larger than all others. Otherwise it is
    new if the listing before had the step, too, because a step that the provider makes up does not return.
    """
    diff = Diff()
    newest = _newest_step(stored)
    known_ids = _recognise(stored, listing.checkpoints)
    for checkpoint in until_full(diff, listing.checkpoints):
        if known_id := known_ids.get(checkpoint.id):
            _add_first_values(diff, known_id, stored[known_id], checkpoint)
        elif (step := checkpoint.position) > newest or step in unconfirmed_before:
            diff.new.append(checkpoint)
            diff.changes.append(Change("new", checkpoint.id))
        else:
            diff.unconfirmed_steps.append(step)
    return diff


def _recognise(stored: Mapping[str, StoredCheckpoint], listed: Collection[Checkpoint]) -> Mapping[str, str]:
    """Return the known checkpoints of a listing: listed id → stored id. No stored checkpoint is listed twice."""
    found = {checkpoint.id: checkpoint.id for checkpoint in listed if checkpoint.id in stored}
    for likeness in (_step_and_model, _step):
        free: dict[Hashable, list[str]] = defaultdict(list)
        for stored_id in sorted(stored.keys() - set(found.values()), reverse=True):
            free[likeness(stored[stored_id].values)].append(stored_id)
        for checkpoint in listed:
            if checkpoint.id not in found and (like := free[likeness(values(checkpoint))]):
                found[checkpoint.id] = like.pop()
    return found


def _step(of: Mapping[str, object]) -> Hashable:
    """Return the step among these values or, of a provider without steps, the time. See Checkpoint.position."""
    return (of["created_at"] or 0) if of["step_number"] is None else of["step_number"]


def _step_and_model(of: Mapping[str, object]) -> Hashable:
    return _step(of), of["fine_tuned_model_checkpoint"]


def _add_first_values(diff: Diff, stored_id: str, known: StoredCheckpoint, listed: Checkpoint) -> None:
    """Add the values of a known checkpoint that were null until now. Metrics without a column are limited in number."""
    received = values(listed)
    first = {name: value for name, value in received.items() if known.values.get(name) is None is not value}
    extra = [name for name in first if name.startswith("extra_metrics.")]
    room = EXTRA_METRICS - sum(name.startswith("extra_metrics.") for name in known.values)
    for name in extra[max(room, 0) :]:
        del first[name]
    if not first:
        return
    kept = {name: known.values.get(name) for name in ("step_number", "created_at", "fine_tuned_model_checkpoint")}
    metrics = {name: value for name, value in listed.metrics.items() if metric_column(name) in first}
    merged = {name: value for name, value in kept.items() if value is not None}
    diff.updated.append(replace(listed, id=stored_id, metrics=metrics, **merged))
    diff.changes += [Change("changed", stored_id, name, None, as_text(value)) for name, value in first.items()]
    # compare() relies on it: a value that the stored item lacks is one of which a change `regressed` was recorded.
    diff.changes += [
        Change("regressed", stored_id, name, as_text(known.values[name]), None)
        for name, before in known.received.items()
        if before is not None and received.get(name) is None and known.values.get(name) is not None
    ]


def _is_unsteady(
    diff: Diff, stored: Mapping[str, StoredCheckpoint], listing: Listing, absent_before: Collection[str]
) -> bool:
    """Return whether a listing contradicts those before.

    It does if a known value changed or became null, if a checkpoint is back that was absent or missing, or if a new
    checkpoint is a known one under another id, or replaces one that vanished.
    """
    if any(change.kind in {"regressed", "returned"} or change.old_value is not None for change in diff.changes):
        return True
    if not {checkpoint.id for checkpoint in listing.checkpoints}.isdisjoint(absent_before):
        return True
    known = {_step_and_model(checkpoint.values) for checkpoint in stored.values()}
    if any((new.position, new.fine_tuned_model_checkpoint) in known for new in diff.new):
        return True
    return bool(diff.new) and (bool(diff.absent) or any(diff.marked.values()))


def _newest_step(stored: Mapping[str, StoredCheckpoint]) -> int:
    """Return the largest step of the checkpoints that are not missing, or -1."""
    found = [_step(known.values) for known in stored.values() if not known.missing]
    return max((step for step in found if isinstance(step, int)), default=-1)


def _limit(diff: Diff, listing: Listing, room: int) -> tuple[Diff, Listing]:
    """Leave out all but the first `room` new checkpoints. The others become rejects of the listing."""
    excess = {checkpoint.id: checkpoint for checkpoint in diff.new[room:]}
    del diff.new[room:]
    diff.changes = [change for change in diff.changes if change.kind != "new" or change.checkpoint_id not in excess]
    reason = f"the job has checkpoints of {CHECKPOINTS_PER_JOB} steps already: no more are stored"
    rejects = [Reject(checkpoint.payload.encode(), reason, checkpoint.id) for checkpoint in excess.values()]
    kept = [checkpoint for checkpoint in listing.checkpoints if checkpoint.id not in excess]
    return diff, listing._replace(checkpoints=kept, rejects=[*listing.rejects, *rejects])
