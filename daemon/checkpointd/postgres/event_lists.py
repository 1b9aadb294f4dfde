"""Claim, save and finish the event lists of jobs. Each statement is its own transaction."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from checkpointd.domain.event import Message, Step
from checkpointd.domain.event_list import (
    MOST_EARLIER_STEPS,
    MOST_MESSAGES,
    MOST_STEPS,
    EventListLease,
    newest_of_each_step,
)
from checkpointd.domain.failure import Failure
from checkpointd.domain.reading import Reject
from checkpointd.postgres import queries
from checkpointd.postgres.connection import Connection, database_deadline_in
from checkpointd.postgres.errors import DATA_ERRORS, repeated, why_rejected
from checkpointd.postgres.isolation import isolate
from checkpointd.postgres.rows import MessageRow, RejectRow, StepRow, columns, parameters
from checkpointd.postgres.save_rows import MOST_REJECTS, reject_rows
from checkpointd.postgres.store import UNDO_SECONDS, Store, finish_or_undo


class ReadEvents(NamedTuple):
    """Events that were read, newest first as listed, and how far the pass has come with them."""

    steps: list[Step]
    messages: list[Message]
    rejects: list[Reject]
    newer: set[str]
    """The ids of the steps that are newer than what was stored before, if their times do not say which event is."""
    cursor: str | None
    pages: int
    pass_ids: Sequence[str]
    pass_is_complete: bool


class SavedEvents(NamedTuple):
    """What a save did: whether the lease still held, and if so how many steps and messages are new."""

    is_saved: bool
    new_steps: int
    new_messages: int
    left_out: bool
    """True if events were left out, because too many of the job are stored."""
    rejects: list[Reject]


class EndedPass(NamedTuple):
    """A pass that reached its end: the newest events when it began, and the digest of its first page."""

    ids: Sequence[str]
    is_complete: bool
    digest: bytes | None


async def claim(
    store: Store, source: int, slots: int, lease_seconds: float, *, reads_events: bool
) -> list[EventListLease]:
    """Lease up to `slots` event lists of a source that are due. If cancelled, releases them again.

    Without `reads_events` none is leased, and it is recorded that sealing does not wait for events.
    """

    async def leases() -> list[EventListLease]:
        rows = await store.fetch(queries.CLAIM_EVENT_LISTS, source, slots, reads_events, lease_seconds)
        return [EventListLease(*row) for row in rows]

    return await finish_or_undo(leases(), lambda claimed: release(store, claimed))


async def release(store: Store, leases: Collection[EventListLease]) -> None:
    """Give the leases of lists back that were not read. They are due as before."""
    keys, tokens = [lease.job for lease in leases], [lease.lease_token for lease in leases]
    await _even_if_cancelled(store.fetch(queries.RELEASE_EVENT_LISTS, keys, tokens))


async def charge_request(store: Store, source: int, request_interval: float) -> bool:
    """Count a request for events against the rate limit of a source. Returns whether it may be made now."""
    return bool(await store.fetch(queries.CHARGE_EVENT_REQUEST, source, request_interval))


async def save(store: Store, lease: EventListLease, read: ReadEvents) -> SavedEvents:
    """Save events in one transaction, if the lease still holds.

    If the database rejects a value, the event with it becomes a reject, and the rest is saved: in several transactions,
    of which the last one records how far the pass has come.
    """
    async with store.connection() as connection:
        try:
            return await _save(connection, lease, read)
        except DATA_ERRORS:
            pass

        async def save_some(events: Sequence[Step | Message]) -> SavedEvents:
            part = _with_events(read, events)
            return await _save(connection, lease, part._replace(rejects=[], cursor=lease.cursor, pages=lease.pages))

        events: list[Step | Message] = [*read.steps, *read.messages]
        results, rejected = await isolate(save_some, events)
        found = [Reject((e.payload or e.id).encode("utf-8", "replace"), why_rejected(why), e.id) for e, why in rejected]
        rest = _with_events(read, [])._replace(rejects=[*read.rejects, *found])
        results.append(await _save(connection, lease, rest))
    return SavedEvents(
        results[-1].is_saved,
        sum(result.new_steps for result in results),
        sum(result.new_messages for result in results),
        any(result.left_out for result in results),
        rest.rejects,
    )


def _with_events(read: ReadEvents, events: Sequence[Step | Message]) -> ReadEvents:
    steps = [event for event in events if isinstance(event, Step)]
    return read._replace(steps=steps, messages=[event for event in events if isinstance(event, Message)])


async def _save(connection: Connection, lease: EventListLease, read: ReadEvents) -> SavedEvents:
    (row,) = await repeated(
        lambda: connection.fetch(
            queries.SAVE_EVENTS,
            lease.job,
            lease.lease_token,
            read.cursor,
            read.pages,
            "\n".join(read.pass_ids),
            read.pass_is_complete,
            MOST_STEPS,
            MOST_EARLIER_STEPS,
            MOST_MESSAGES,
            MOST_REJECTS,
            *parameters(StepRow, _step_columns(read.steps, read.newer)),
            *columns(MessageRow, list(map(msgspec.structs.astuple, read.messages))),
            *columns(RejectRow, reject_rows((lease.job, reject) for reject in read.rejects)),
        )
    )
    return SavedEvents(row["saved"], row["new_steps"], row["new_messages"], row["left_out"], read.rejects)


def _step_columns(listed: Sequence[Step], newer: set[str]) -> list[Sequence[object]]:
    """Return the columns of StepRow. Steps are in their order, so that inserting them fills the pages of the index."""
    newest = newest_of_each_step(listed)
    order = sorted(range(len(listed)), key=[step.step_number for step in listed].__getitem__)
    steps = [listed[position] for position in order]
    values = [list(map(attrgetter(name), steps)) for name in Step.__struct_fields__]
    return [*values, [newest[position] for position in order], [step.id in newer for step in steps]]


async def finish(
    store: Store, lease: EventListLease, gap: float, *, ended: EndedPass | None = None, restart: bool = False,
    failure: Failure | None = None,
) -> None:  # fmt: skip
    """Give the lease of an event list back.

    `gap` is the number of seconds from the claim to the next reading, `ended` the pass if it has ended, and `restart`
    whether the pass cannot be continued.
    """
    work = store.fetch(
        queries.FINISH_EVENT_LIST,
        lease.job,
        lease.lease_token,
        gap,
        ended and ended.ids,
        ended is not None and ended.is_complete,
        ended and ended.digest,
        restart,
        failure and failure.error_class,
        failure and failure.message,
    )
    await _even_if_cancelled(work)


async def _even_if_cancelled(work: Awaitable[object]) -> None:
    """Await `work` to its end. A task that is being cancelled waits for UNDO_SECONDS at most."""
    task = asyncio.current_task()
    async with database_deadline_in(UNDO_SECONDS if task and task.cancelling() else None):
        await finish_or_undo(work)
