"""An event list: its pages → steps, messages and rejects; where a pass over it ends; when it is read again. Pure.

A pass reads the list from its newest event on. It ends on the page that has one of the newest events of the last pass,
because events are appended in order, or at the end of the list: the first pass, and one after the job has ended. The
whole page is read, because events of the same second may change places. A pass can be interrupted after each page.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import takewhile
from typing import Final, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import ForeignItemError, is_valid_id
from checkpointd.domain.event import Message, Step, read_as_specified, read_event
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.listing import READER
from checkpointd.domain.raw_item import head, id_of, without_secrets
from checkpointd.domain.reading import LATER_COUNTS, BadItemError, RawItem, Reject

NEWEST_IDS: Final = 8
"""How many of the newest events a pass remembers. One is enough, unless the provider drops or moves it."""

ITEMS_AT_ONCE: Final = 100
"""How many items are read at once, if all are as specified: a usual page."""

MOST_STEPS: Final = 1_000_000
MOST_EARLIER_STEPS: Final = 10_000
MOST_MESSAGES: Final = 10_000
"""The most steps, other events of repeated steps, and messages of a job that are stored, about: a save is not divided.
"""

LONGEST_BACK_OFF: Final = 3600.0
ABSENT_GAP: Final = 86_400.0
"""Seconds until the next reading after failures in a row, and after two that say that there is no such list, at most.
If the gap between readings is longer, it counts."""

ABSENT_STATUSES: Final = frozenset({404, 405, 501})
"""What providers without event lists answer."""


class EventListLease(NamedTuple):
    """A claimed event list, and how far it was read. The fields are columns of claim_event_lists.sql."""

    job: int
    id: str
    """The provider's id of the job."""
    lease_token: int
    settling_seconds: float | None
    """Seconds since the job ended, or None if it has not."""
    is_incomplete: bool
    """True if the list was not read to its end since the job ended or, before that, ever."""
    cursor: str | None
    """The id of the last event that the interrupted pass has read, or None."""
    pages: int
    """How many pages the interrupted pass has read."""
    pass_is_complete: bool | None
    """Whether the interrupted pass reads the list to its end, or None."""
    pass_ids: Sequence[str] | None
    """The ids of the newest events when the interrupted pass began, or None."""
    known_ids: Sequence[str] | None
    """The ids of the newest events when the last pass that ended began, or None if there was none."""
    digest: bytes | None
    """The digest of the first page of that pass, or None if the first page must be read, whatever it has."""
    failures: int
    """How many readings in a row failed."""
    error_class: str | None
    """The class of the last failure, or None if the last pass ended after it."""


class Events(NamedTuple):
    """The events of a page, newest first as listed, one for each id, its rejects, and the ids of its events."""

    steps: list[Step]
    messages: list[Message]
    rejects: list[Reject]
    ids: list[str]
    is_newest_first: bool
    """False if the first event is older than the last one: the list has another order."""
    foreign: str | None = None
    """The type of the items of a page without events, or None."""


ReadEvents = Callable[[Sequence[RawItem], Callable[[bytes], bool]], Events]
"""Reads the items of a page of an event list of a wire format. See read_events()."""


def page_digest(items: Sequence[RawItem]) -> bytes:
    """Return the SHA-256 hash of the version of the reader and of the bytes of each item."""
    return sha256(READER + b"\n".join(items)).digest()


def read_events(items: Sequence[RawItem], holds_secret: Callable[[bytes], bool] = lambda _: False) -> Events:
    """Read the items of a page. If several have the same id, the last one counts.

    An item for which `holds_secret` is true (the provider repeated the key) becomes a reject without its bytes.
    """
    found: dict[str, Step | Message] = {}
    rejects: list[Reject] = []
    foreign: str | None = None
    readable = list(without_secrets(items, holds_secret, rejects))
    for start in range(0, len(readable), ITEMS_AT_ONCE):
        part = readable[start : start + ITEMS_AT_ONCE]
        new = {event.id: event for event in read_as_specified(part) or ()}
        if len(new) == len(part) and found.keys().isdisjoint(new):
            found |= new
            continue
        for raw in part:
            try:
                event, flaw = read_event(raw)
            except BadItemError as e:
                foreign = e.kind if isinstance(e, ForeignItemError) else foreign
                rejects.append(Reject(head(raw), str(e), id_of(raw, is_valid_id)))
                continue
            if (earlier := found.get(event.id)) is not None and earlier != event:
                rejects.append(Reject(_as_json(earlier), LATER_COUNTS, event.id))
            found[event.id] = event
            if flaw:
                rejects.append(Reject(head(raw), flaw, event.id, is_stored=True))
    events = list(found.values())
    times = [event.created_at for event in events if event.created_at is not None]
    return Events(
        [event for event in events if isinstance(event, Step)],
        [event for event in events if isinstance(event, Message)],
        rejects,
        list(found),
        is_newest_first=not times or times[0] >= times[-1],
        foreign=None if found else foreign,
    )


def new_steps(events: Events, known: set[str]) -> list[Step]:
    """Return the steps of a page, newest first, that are listed before all events with a known id."""
    new = set(takewhile(lambda event_id: event_id not in known, events.ids))
    return [step for step in events.steps if step.id in new]


def newest_of_each_step(steps: Sequence[Step]) -> list[bool]:
    """Return for each of these steps, newest first as listed, whether no other one of the same number is newer."""
    if len({step.step_number for step in steps}) == len(steps):
        return [True] * len(steps)
    newest: dict[int, int] = {}
    for position, step in enumerate(steps):
        other = steps[newest.setdefault(step.step_number, position)].created_at
        if step.created_at is not None and other is not None and step.created_at > other:
            newest[step.step_number] = position
    positions = set(newest.values())
    return [position in positions for position in range(len(steps))]


def next_gap(gap: float, lease: EventListLease, failure: Failure | None) -> float:
    """Return the seconds until an event list is read again, given the usual ones while its job runs.

    After the end of the job they grow, like the poll gap. After failures they double.
    """
    if failure is None:
        return max(gap, (lease.settling_seconds or 0) / 4)
    if lease.failures and lease.error_class == failure.error_class == ErrorClass.MISSING:
        return max(gap, ABSENT_GAP)
    return max(gap, min(max(gap, 1.0) * 2.0 ** min(lease.failures + 1, 30), LONGEST_BACK_OFF))


def of_list(failure: Failure) -> Failure:
    """Return a failure with the class MISSING if it says that the provider has no event list of this job."""
    is_absent = failure.status in ABSENT_STATUSES and failure.error_class is not ErrorClass.CURSOR_LOST
    return replace(failure, error_class=ErrorClass.MISSING) if is_absent else failure


def _as_json(event: Step | Message) -> bytes:
    return (event.payload or json.dumps(msgspec.structs.asdict(event))).encode("utf-8", "replace")
