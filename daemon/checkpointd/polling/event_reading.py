"""One reading of an event list: a pass over it, or a part of one, whose events are saved as it goes on."""

import asyncio
from contextlib import aclosing
from typing import Final

from checkpointd.domain.event import Message, Step
from checkpointd.domain.event_list import (
    MOST_EARLIER_STEPS,
    NEWEST_IDS,
    EventListLease,
    Events,
    new_steps,
    page_digest,
)
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job_list import PAGE_SHARE, REQUEST_SHARE
from checkpointd.domain.reading import Reject
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import event_lists
from checkpointd.postgres.event_lists import EndedPass, ReadEvents
from checkpointd.postgres.store import Store
from checkpointd.provider import heavy_work
from checkpointd.provider.client import ListPage
from checkpointd.provider.http import ApiError
from checkpointd.telemetry.metrics import REQUESTS

SAVED_EVENTS: Final = 1000
SAVED_BYTES: Final = 1024 * 1024
"""Events are saved when there are so many, or when their pages have so many bytes. The next ones are read meanwhile,
unless the pages have so many bytes.
"""


class OutOfRequestsError(Exception):
    """The rate limit permits no request for events now."""


class LostLeaseError(Exception):
    """Another daemon has claimed the list meanwhile."""


class EventReading:
    """One reading of an event list, from its newest event or from where an interrupted pass stopped."""

    def __init__(
        self, store: Store, source: ActiveSource, lease: EventListLease, claimed_before: float, lease_seconds: float
    ) -> None:
        """Create the reading of a list that was claimed after `claimed_before`, on the event loop's clock."""
        self.lease = lease
        """The lease. Its cursor, pages and failures are those after the last save."""
        self.rejects: list[Reject] = []
        self.new_steps = self.new_messages = 0
        self.left_out = False
        """True if events were left out, because too many of the job are stored."""
        self._store = store
        self._source = source
        self._last_page_at = claimed_before + PAGE_SHARE * lease_seconds
        self._deadline = claimed_before + REQUEST_SHARE * lease_seconds
        resumes = lease.cursor is not None
        self._pass_ids = lease.pass_ids if resumes else None
        self._to_end = bool(lease.pass_is_complete) if resumes else lease.is_incomplete
        self._digest: bytes | None = None
        self._cursor, self._pages = lease.cursor, lease.pages
        """The position after the last page from which the pass can be continued."""
        self._is_ahead = lease.known_ids is not None and not (resumes and self._to_end)
        """True if all events that were listed so far are newer than those of the last pass."""
        self._step_numbers: set[int] = set()
        """Those of the steps that were read meanwhile."""
        self._newer: set[str] = set()
        self._steps: list[Step] = []
        self._messages: list[Message] = []
        self._new_rejects: list[Reject] = []
        self._size = 0
        self._saving: asyncio.Task[None] | None = None
        """The save that has begun, or None if all have ended."""

    async def read(self) -> EndedPass | None:
        """Read and save the pages. Returns the pass if it has ended, or None if it was interrupted.

        Raises ApiError, OutOfRequestsError or LostLeaseError. What was read before is saved, if the lease still holds.
        """
        try:
            return await self._read()
        finally:
            if self._saving is not None:  # an error or a cancellation: what is not saved is read again
                self._saving.cancel()
                await asyncio.gather(self._saving, return_exceptions=True)

    async def _read(self) -> EndedPass | None:
        lease = self.lease
        pages = self._source.client.list_events(
            lease.id, self._deadline, self._wait, cursor=lease.cursor, pages=lease.pages
        )
        try:
            async with aclosing(pages):
                async for page in pages:
                    if self._is_quiet(page):
                        return EndedPass(lease.known_ids or (), is_complete=False, digest=self._digest)
                    is_end = await self._add(page)
                    if is_end and page.cursor is not None:
                        await self._save()
                        return EndedPass(self._pass_ids or (), is_complete=False, digest=self._digest)
                    is_late = asyncio.get_running_loop().time() >= self._last_page_at and page.can_resume
                    if is_late or self._size >= SAVED_BYTES:
                        await self._save()
                    elif len(self._steps) >= SAVED_EVENTS:
                        await self._begin_to_save()
                    if is_late:
                        return None
        except (ApiError, OutOfRequestsError):
            await self._save()
            raise
        await self._save()
        return EndedPass(self._pass_ids or (), is_complete=True, digest=self._digest)

    async def _wait(self, _: float) -> None:
        """Take a request from the rate limit, as soon as it permits one. Raises OutOfRequestsError if that is late."""
        loop, source = asyncio.get_running_loop(), self._source
        interval = source.request_interval
        while interval is not None and not await event_lists.charge_request(self._store, source.key, interval):
            if loop.time() + interval >= self._last_page_at:
                raise OutOfRequestsError
            await asyncio.sleep(interval)
        REQUESTS.labels(source.name).inc()

    def _is_quiet(self, page: ListPage) -> bool:
        """Return whether a page is the first one of an incremental pass, and the same as at the last pass."""
        if self._pass_ids is not None or self._to_end:
            return False
        self._digest = page_digest(page.items)
        return self._digest == self.lease.digest

    async def _add(self, page: ListPage) -> bool:
        """Read the events of a page. Returns whether it has one of those at which an incremental pass ends."""
        size = sum(map(len, page.items))
        read_events, args = self._source.client.format.read_events, (page.items, self._source.client.holds_secret)
        is_large = size > heavy_work.LARGE_BYTES
        events = await heavy_work.run(read_events, *args) if is_large else read_events(*args)
        if events.foreign is not None:
            raise ApiError(Failure(ErrorClass.OTHER_LIST, f"items of another type: {events.foreign}"))
        if self._pass_ids is None:
            self._pass_ids = events.ids[:NEWEST_IDS]
            if self._to_end:
                self._digest = page_digest(page.items)
            if not events.is_newest_first and page.cursor is not None:
                self._digest = None  # new events are on other pages
        self._steps += events.steps
        self._messages += events.messages
        self._new_rejects += events.rejects
        self._size += size
        if page.can_resume:
            self._cursor, self._pages = page.cursor, self._pages + 1
        known = set(self.lease.known_ids or ())
        self._find_newer(events, known)
        return not self._to_end and events.is_newest_first and not known.isdisjoint(events.ids)

    def _find_newer(self, events: Events, known: set[str]) -> None:
        """Note which steps of a page are newer than what was stored before this reading.

        Of several events of one step, that is only the first one of the list.
        """
        self._is_ahead &= events.is_newest_first and len(self._step_numbers) < MOST_EARLIER_STEPS
        if not self._is_ahead:
            return
        for step in new_steps(events, known):
            if step.step_number not in self._step_numbers:
                self._step_numbers.add(step.step_number)
                self._newer.add(step.id)
        self._is_ahead = known.isdisjoint(events.ids)

    async def _save(self) -> None:
        """Save what was read. Raises LostLeaseError."""
        await self._begin_to_save()
        await self._end_save()

    async def _end_save(self) -> None:
        """Wait for the save that has begun. Raises LostLeaseError."""
        if self._saving is not None:
            await self._saving
            self._saving = None

    async def _begin_to_save(self) -> None:
        """Begin to save what was read since the last save, which must have ended. Raises LostLeaseError of that one."""
        await self._end_save()
        if not (self._steps or self._messages or self._new_rejects):
            return
        ids, to_end = self._pass_ids or (), self._to_end
        newer, cursor, pages = self._newer, self._cursor, self._pages
        read = ReadEvents(
            self._steps, self._messages, self._new_rejects, newer, cursor, pages, ids, pass_is_complete=to_end
        )
        self._steps, self._messages, self._new_rejects, self._newer, self._size = [], [], [], set(), 0
        self._saving = asyncio.create_task(self._save_batch(read))

    async def _save_batch(self, read: ReadEvents) -> None:
        saved = await event_lists.save(self._store, self.lease, read)
        if not saved.is_saved:
            raise LostLeaseError
        self.lease = self.lease._replace(cursor=read.cursor, pages=read.pages, failures=0)
        self.new_steps += saved.new_steps
        self.new_messages += saved.new_messages
        self.left_out |= saved.left_out
        self.rejects += saved.rejects
