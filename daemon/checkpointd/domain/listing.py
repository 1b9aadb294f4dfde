"""A listing: the pages of one job's checkpoint list → checkpoints and rejects, and a digest of them all. Pure."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from checkpointd.domain.checkpoint import (
    OBJECT,
    BadItemError,
    Checkpoint,
    ForeignItemError,
    RawItem,
    is_valid_id,
    read_checkpoint,
)
from checkpointd.domain.failure import Failure

READER = b"2"
"""The version of this reader. It is part of every digest, so that a new reader reads every listing again."""


class RawListing(NamedTuple):
    """What a list gave: the items of each page that was read, why it broke off (None: it is whole), requests made."""

    items: list[Sequence[RawItem]]
    failure: Failure | None
    requests: int


class Reject(NamedTuple):
    """What could not be read: the item's bytes (None: a secret stands in them), what is wrong, its id if readable."""

    raw: bytes | None
    reason: str
    id: str | None


class Listing(NamedTuple):
    """The items of a listing, one for each id, and the rejects."""

    items: list[Checkpoint]
    rejects: list[Reject]
    foreign: str | None
    """The type of an item that is no checkpoint: its page and all that follow are unreadable. None: there is none."""


def digest(pages: Sequence[Sequence[RawItem]]) -> bytes:
    """Return 32 bytes that stand for the items of these pages, byte for byte, and for this reader."""
    summary = sha256(READER)
    for items in pages:
        summary.update(b"\n".join(items))
        summary.update(b"\n")
    return summary.digest()


def read(
    job_id: str, pages: Sequence[Sequence[RawItem]], holds_secret: Callable[[bytes], bool] = lambda _: False
) -> Listing:
    """Read the checkpoints of job `job_id`. Of items with one id the last one counts.

    An item in which `holds_secret` finds one (a provider that echoes the key) is a reject without its bytes.
    """
    items: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    for page in pages:
        try:
            page_items, page_rejects = _read_page(job_id, page, holds_secret)
        except ForeignItemError as e:
            return Listing(list(items.values()), rejects, str(e))
        items.update((item.id, item) for item in page_items)
        rejects += page_rejects
    return Listing(list(items.values()), rejects, None)


def _read_page(
    job_id: str, page: Sequence[RawItem], holds_secret: Callable[[bytes], bool]
) -> tuple[list[Checkpoint], list[Reject]]:
    """Read a page. Raises ForeignItemError where it has something else."""
    found: dict[str, Checkpoint] = {}
    rejects: list[Reject] = []
    suspicious = holds_secret(b"\n".join(page))
    for raw in page:
        secret = suspicious and holds_secret(bytes(raw))
        try:
            item, flaw = read_checkpoint(raw, job_id)
        except ForeignItemError:
            if secret:  # perhaps in the type's name
                raise ForeignItemError("items of another type") from None
            raise
        except BadItemError as e:
            rejects.append(_SECRETIVE if secret else Reject(bytes(raw), str(e), _id_of(raw)))
            continue
        if secret:
            rejects.append(_SECRETIVE)
            continue
        if (twin := found.get(item.id)) and not _is_same(twin, item):
            rejects.append(
                Reject(twin.payload.encode(), "given twice on one page, differently: the last counts", item.id)
            )
        found[item.id] = item
        if flaw:
            rejects.append(Reject(bytes(raw), flaw, item.id))
    return list(found.values()), rejects


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.payload == other.payload or json.loads(one.payload) == json.loads(other.payload)


_SECRETIVE: Final = Reject(None, "a secret stands in it", None)


def _id_of(raw: RawItem) -> str | None:
    """Return the id of what at least says that it is a checkpoint; None: it may be any of them, or none."""
    try:
        sent = json.loads(bytes(raw))
        found = sent.get("id") if sent.get("object") == OBJECT else None
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) and is_valid_id(found) else None
