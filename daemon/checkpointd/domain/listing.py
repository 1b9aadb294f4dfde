"""A listing: the pages of a job's checkpoint list → checkpoints, rejects and a digest. Pure."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import (
    METRICS,
    OPENAI_READER,
    Checkpoint,
    CheckpointReader,
    ForeignItemError,
)  # fmt: skip
from checkpointd.domain.failure import Failure
from checkpointd.domain.raw_item import head, holding_secrets
from checkpointd.domain.reading import (
    LATER_COUNTS,
    SECRET_REJECT,
    BadItemError,
    RawItem,
    Reject,
)  # fmt: skip

READER: Final = b"3"
"""The version of this reader. Every digest includes it, so that each listing is compared in full after an upgrade."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode
"""Writes equal values as equal bytes: the members of an object are sorted by name."""


LISTING_METRICS: Final = 100_000
"""The most metrics without a column of a listing. Each takes up to some hundred bytes of memory."""


class RawListing(NamedTuple):
    """A listing as received: the items of each page, the failure that cut it short or None, and the requests made."""

    pages: list[Sequence[RawItem]]
    failure: Failure | None
    requests: int
    size: int = 0
    """The bytes of its pages."""
    bodies: Sequence[RawItem] = ()
    """The JSON text of each page."""
    is_known: bool = False
    """True if its only page has the digest of the last complete listing. Then `pages` is empty: nothing was decoded."""
    reader: CheckpointReader = OPENAI_READER


class Listing(NamedTuple):
    """The checkpoints of a listing, one for each id, and its rejects."""

    checkpoints: list[Checkpoint]
    rejects: list[Reject]
    foreign: str | None
    """The type of the items of a page without checkpoints, or None. This page and the later ones are not read."""
    is_cut_off: bool = False
    """True if it has more than LISTING_METRICS. What follows is not read."""
    reader: CheckpointReader = OPENAI_READER
    """What read it, and reads the stored checkpoints with which it is compared."""

    @property
    def unreadable(self) -> int:
        """How many items could not be read at all."""
        return sum(not reject.is_stored for reject in self.rejects)


def digest(bodies: Iterable[RawItem]) -> bytes:
    """Return the SHA-256 hash of the version of this reader, and of the length and the JSON text of each page."""
    summary = sha256(READER)
    for body in bodies:
        summary.update(b"%d:" % len(body))
        summary.update(body)
    return summary.digest()


def content_digest(listing: Listing) -> bytes:
    """Return the SHA-256 hash of the version of this reader and of what a listing contains.

    The content is the values of each checkpoint that are not null, by its id, and the id and reason of each reject.
    Order, encoding and members that no column shows do not matter.
    """
    checkpoints = [
        (c.id, c.step_number, c.created_at, c.fine_tuned_model_checkpoint, _content(c.metrics), c.details)
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
    job_id: str,
    pages: Sequence[Sequence[RawItem]],
    holds_secret: Callable[[bytes], bool] = lambda _: False,
    reader: CheckpointReader = OPENAI_READER,
) -> Listing:
    """Read the checkpoints of a job. If several items have the same id, the last one counts.

    An item for which `holds_secret` is true (the provider repeated the key) becomes a reject without its bytes.
    """
    checkpoints: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    room = LISTING_METRICS
    for page in pages:
        try:
            read, rejected, room = _read_page(job_id, page, holds_secret, room, reader)
        except ForeignItemError as e:
            return Listing(list(checkpoints.values()), rejects, e.kind, reader=reader)
        checkpoints.update((checkpoint.id, checkpoint) for checkpoint in read)
        rejects += rejected
        if room < 0:
            break
    return Listing(list(checkpoints.values()), rejects, None, is_cut_off=room < 0, reader=reader)


def _read_page(
    job_id: str, page: Sequence[RawItem], holds_secret: Callable[[bytes], bool], room: int, reader: CheckpointReader
) -> tuple[list[Checkpoint], list[Reject], int]:
    """Read one page, and return how many more metrics without a column the listing may have.

    If that is negative, the rest of the page is not read. Raises ForeignItemError if items of another type are on the
    page, and no checkpoint is.
    """
    found: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    foreign: str | None = None
    secret = holding_secrets(page, holds_secret)
    read_checkpoint = reader.read
    for position, raw in enumerate(page):
        is_secret = position in secret
        try:
            checkpoint, flaw = read_checkpoint(raw, job_id)
        except BadItemError as e:
            if isinstance(e, ForeignItemError):
                foreign = "items of another type" if is_secret else e.kind  # the name of the type may be the secret
            rejects.append(SECRET_REJECT if is_secret else Reject(head(raw), str(e), reader.id_of(raw)))
            continue
        if is_secret:
            rejects.append(SECRET_REJECT)
            continue
        if (earlier := found.get(checkpoint.id)) and not _is_same(earlier, checkpoint):
            rejects.append(Reject(head(earlier.payload.encode()), LATER_COUNTS, checkpoint.id))
        found[checkpoint.id] = checkpoint
        if flaw:
            rejects.append(Reject(head(raw), flaw, checkpoint.id, is_stored=True))
        if (extra := len(checkpoint.metrics) - len(METRICS)) > 0:
            room -= extra
            if room < 0:
                break
    if foreign is not None and not found and all(reject.id is None for reject in rejects):
        raise ForeignItemError(foreign)
    return list(found.values()), rejects, room


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.payload == other.payload or json.loads(one.payload) == json.loads(other.payload)
