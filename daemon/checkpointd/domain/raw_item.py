"""An item as received: its first bytes, its names, and whether it contains a secret. However large it is. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from checkpointd.domain.json_text import outer_members
from checkpointd.domain.reading import SECRET_REJECT, RawItem, Reject

REJECT_BYTES: Final = 64 * 1024
"""The most bytes of a reject that are kept."""

LARGEST_ITEM: Final = 512 * 1024
"""Bytes. No larger item is read. The record of a reinforcement job can contain a grader: a program of up to 256 kB."""

SEARCHED_BYTES: Final = 64 * 1024
"""Items of about so many bytes are searched for secrets together."""


def head(raw: RawItem) -> bytes:
    """Return the first bytes of an item, of which a reject keeps REJECT_BYTES."""
    return memoryview(raw)[:REJECT_BYTES].tobytes()


class _Named(msgspec.Struct):
    id: str | None = None
    object: str | None = None


_decode_named: Final = msgspec.json.Decoder(_Named).decode


def names_of_large(raw: RawItem) -> tuple[str | None, str | None]:
    """Return the id and the object of an item that is too large, without memory for the rest; or None for each."""
    try:
        found = _decode_named(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    return found.id, found.object


def id_of(raw: RawItem, is_valid: Callable[[str], object]) -> str | None:
    """Return the id of an item that cannot be read, or None if it has no valid one."""
    found = names_of_large(raw)[0] if len(raw) > LARGEST_ITEM else outer_members(bytes(raw)).get("id")
    return found if isinstance(found, str) and is_valid(found) else None


def holding_secrets(items: Sequence[RawItem], holds_secret: Callable[[bytes], bool]) -> set[int]:
    """Return the positions of the items for which `holds_secret` is true.

    Small items are searched together, because most pages have no secret. Of a large one, only the part is searched that
    a reject can keep, and as much again, in which a secret may go on.
    """
    found: set[int] = set()
    if sum(map(len, items)) <= SEARCHED_BYTES and not holds_secret(b"\n".join(items)):
        return found
    first = size = 0
    for position, item in enumerate(items):
        size += len(item)
        if size > SEARCHED_BYTES or position == len(items) - 1:
            part = items[first : position + 1]
            if holds_secret(b"\n".join(map(_searched, part))):
                found.update(n for n, one in enumerate(part, start=first) if holds_secret(bytes(_searched(one))))
            first, size = position + 1, 0
    return found


def without_secrets(
    items: Sequence[RawItem], holds_secret: Callable[[bytes], bool], rejects: list[Reject]
) -> Iterator[RawItem]:
    """Yield the items for which `holds_secret` is false. Adds a reject without bytes for each of the others."""
    secret = holding_secrets(items, holds_secret)
    for position, raw in enumerate(items):
        if position in secret:
            rejects.append(SECRET_REJECT)
        else:
            yield raw


def _searched(raw: RawItem) -> RawItem:
    return raw if len(raw) <= LARGEST_ITEM else memoryview(raw)[: 2 * REJECT_BYTES].tobytes()
