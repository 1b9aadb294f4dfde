"""A listing: the pages of a job's checkpoint list → checkpoints, rejects and a digest. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import (
    OBJECT,
    Checkpoint,
    ForeignItemError,
    is_valid_id,
    read_checkpoint,
)  # fmt: skip
from checkpointd.domain.failure import Failure
from checkpointd.domain.json_text import outer_members
from checkpointd.domain.reading import LATER_COUNTS, SECRET_REJECT, BadItemError, RawItem, Reject

READER: Final = b"3"
"""The version of this reader. Every digest includes it, so that each listing is compared in full after an upgrade."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
"""Writes equal values as equal bytes: the members of an object are sorted by name."""


class RawListing(NamedTuple):
    """A listing as received: the items of each page, the failure that cut it short or None, and the requests made."""

    pages: list[Sequence[RawItem]]
    failure: Failure | None
    requests: int


class Listing(NamedTuple):
    """The checkpoints of a listing, one for each id, and its rejects."""

    checkpoints: list[Checkpoint]
    rejects: list[Reject]
    foreign: str | None
    """The type of the items of a page without checkpoints, or None. This page and the later ones are not read."""

    @property
    def unreadable(self) -> int:
        """How many items could not be read at all."""
        return sum(not reject.is_stored for reject in self.rejects)


def digest(pages: Sequence[Sequence[RawItem]]) -> bytes:
    """Return the SHA-256 hash of the version of this reader and of the bytes of each item."""
    summary = sha256(READER)
    for items in pages:
        summary.update(b"\n".join(items))
        summary.update(b"\n")
    return summary.digest()


def content_digest(listing: Listing) -> bytes:
    """Return the SHA-256 hash of the version of this reader and of what a listing contains.

    The content is the values of each checkpoint that are not null, by its id, and the id and reason of each reject.
    Order, encoding and members that no column shows do not matter.
    """
    checkpoints = [
        (c.id, c.step_number, c.created_at, c.fine_tuned_model_checkpoint, _content(c.metrics))
        for c in sorted(listing.checkpoints, key=attrgetter("id"))
    ]
    rejects = sorted(reject.key for reject in listing.rejects)
    return sha256(READER + _encode((checkpoints, rejects))).digest()


def _content(metrics: dict[str, float | None]) -> Mapping[str, float | None]:
    """Return the metrics that are not null, with 0.0 for -0.0, which are equal."""
    sent = metrics.values()
    if None in sent or 0.0 in sent:
        return {name: value + 0.0 for name, value in metrics.items() if value is not None}
    return metrics


def read_listing(
    job_id: str, pages: Sequence[Sequence[RawItem]], holds_secret: Callable[[bytes], bool] = lambda _: False
) -> Listing:
    """Read the checkpoints of a job. If several items have the same id, the last one counts.

    An item for which `holds_secret` is true (the provider repeated the key) becomes a reject without its bytes.
    """
    checkpoints: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    for page in pages:
        try:
            read, rejected = _read_page(job_id, page, holds_secret)
        except ForeignItemError as e:
            return Listing(list(checkpoints.values()), rejects, e.kind)
        checkpoints.update((checkpoint.id, checkpoint) for checkpoint in read)
        rejects += rejected
    return Listing(list(checkpoints.values()), rejects, None)


def _read_page(
    job_id: str, page: Sequence[RawItem], holds_secret: Callable[[bytes], bool]
) -> tuple[list[Checkpoint], list[Reject]]:
    """Read one page. Raises ForeignItemError if items of another type are on it, and no checkpoint is."""
    found: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    foreign: str | None = None
    page_holds_secret = holds_secret(b"\n".join(page))
    for raw in page:
        is_secret = page_holds_secret and holds_secret(bytes(raw))
        try:
            checkpoint, flaw = read_checkpoint(raw, job_id)
        except BadItemError as e:
            if isinstance(e, ForeignItemError):
                foreign = "items of another type" if is_secret else e.kind  # the name of the type may be the secret
            rejects.append(SECRET_REJECT if is_secret else Reject(bytes(raw), str(e), _id_of(raw)))
            continue
        if is_secret:
            rejects.append(SECRET_REJECT)
            continue
        if (earlier := found.get(checkpoint.id)) and not _is_same(earlier, checkpoint):
            rejects.append(Reject(earlier.payload.encode(), LATER_COUNTS, checkpoint.id))
        found[checkpoint.id] = checkpoint
        if flaw:
            rejects.append(Reject(bytes(raw), flaw, checkpoint.id, is_stored=True))
    if foreign is not None and not found and all(reject.id is None for reject in rejects):
        raise ForeignItemError(foreign)
    return list(found.values()), rejects


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.payload == other.payload or json.loads(one.payload) == json.loads(other.payload)


def _id_of(raw: RawItem) -> str | None:
    """Return the id of an item that has the type of a checkpoint, or None. One without id may be any checkpoint."""
    sent = outer_members(bytes(raw))
    found = sent.get("id") if sent.get("object") == OBJECT else None
    return found if isinstance(found, str) and is_valid_id(found) else None
