"""Read the event lists of a source's jobs: the metrics of each training step, and messages.

Events never delay checkpoints. They have two requests of their own at a time, and one while jobs wait for their polls.
With a rate limit, they use what the polls leave, and a tenth if the polls leave nothing. Their failures say nothing
about the source, because a provider may limit or lack this list alone: this process stops reading events for a while.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from checkpointd.domain.event_list import EventListLease, next_gap, of_list
from checkpointd.domain.failure import JOB_FAILURES, SOURCE_FAILURES, ErrorClass, Failure, pause_seconds
from checkpointd.domain.job_list import PAGE_SHARE
from checkpointd.polling.event_reading import EventReading, LostLeaseError, OutOfRequestsError
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import event_lists
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.event_lists import EndedPass
from checkpointd.postgres.store import Store
from checkpointd.provider.http import ApiError
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import REJECTS

LISTS_AT_A_TIME: Final = 2
"""How many lists are read at a time, at most."""

FEWEST_CLAIMED: Final = 16
MOST_CLAIMED: Final = 100
CLAIM_SECONDS: Final = 2.0
"""As many lists are claimed at once as are read in about this many seconds, within these numbers.

A claim looks at all jobs of the source, so small claims of many jobs would cost more than the readings. But lists that
are claimed and wait are closed to other daemons. And the answer to a claim must fit the buffers of a connection: if a
daemon is suspended before it reads a longer one, the server waits, and keeps the rows locked.
"""

RESTART_FAILURES: Final = 3
"""A pass starts again if it fails so many times in a row at one cursor, unless the source is what fails."""

SHORTEST_INTERVAL: Final = 0.05
LONGEST_INTERVAL: Final = 10.0
"""Seconds between two looks for due lists. Each look reads the rows of all jobs of the source."""

KNOWN_REJECTS: Final = 10_000
"""About as many rejects are remembered at most, so that they are not counted and logged at each reading."""


class EventLists:
    """The event lists of one source. A lease on each prevents other daemons from reading it meanwhile."""

    def __init__(self, store: Store, source: ActiveSource, health: Health, *, gap: float, lease_seconds: float) -> None:
        """`gap` is in seconds, between two readings of a list while its job runs, or 0 to read none."""
        self.interval = min(max(gap / 10, SHORTEST_INTERVAL), LONGEST_INTERVAL) if gap else LONGEST_INTERVAL
        """The seconds between two ticks."""
        self._store = store
        self._source = source
        self._health = health
        self._gap = gap
        self._lease_seconds = lease_seconds
        self._client = source.client
        self._silent_until = 0.0
        """No list is read before this time, on the event loop's clock."""
        self._is_out_of_requests = False
        self._slots = FEWEST_CLAIMED
        """How many lists are claimed at once."""
        self._logged: str | None = None
        """The class of the last failure that was logged, or None if a list was read since."""
        self._rejected: set[bytes] = set()
        """The keys of rejects that were counted and logged."""

    async def tick(self) -> None:
        """Read the lists that are due. Failures are logged, not raised."""
        now = asyncio.get_running_loop().time()
        if self._client is not self._source.client:  # there is a new key
            self._client, self._silent_until = self._source.client, 0.0
        if self._source.is_silent(now) or now < self._silent_until:
            return
        self._is_out_of_requests = False
        try:
            with self._health.unit("events"):
                while await self._read_some():
                    pass
        except DatabaseUnavailableError:
            return

    async def _read_some(self) -> bool:
        """Claim due lists and read them. Returns whether more may be due."""
        claimed_before = asyncio.get_running_loop().time()
        slots, key, reads_events = self._slots, self._source.key, self._gap > 0
        leases = deque(await event_lists.claim(self._store, key, slots, self._lease_seconds, reads_events=reads_events))
        is_full = len(leases) == slots
        try:
            async with asyncio.TaskGroup() as group:
                for place in range(min(LISTS_AT_A_TIME, len(leases))):
                    group.create_task(self._work(leases, claimed_before, yields=place > 0))
        except ExceptionGroup as e:
            raise e.exceptions[0] from None  # the database is unavailable
        finally:
            if leases:
                with suppress(DatabaseUnavailableError):  # then they expire
                    await event_lists.release(self._store, leases)
        if leases:
            self._slots = FEWEST_CLAIMED
        elif is_full:
            seconds = asyncio.get_running_loop().time() - claimed_before
            self._slots = min(max(int(slots * CLAIM_SECONDS / seconds), FEWEST_CLAIMED), MOST_CLAIMED)
        return is_full and not self._is_stopped(claimed_before)

    def _is_stopped(self, claimed_before: float) -> bool:
        """Return whether no further list of a claim is begun."""
        now = asyncio.get_running_loop().time()
        is_late = now >= claimed_before + PAGE_SHARE * self._lease_seconds
        return is_late or self._is_out_of_requests or now < self._silent_until

    async def _work(self, leases: deque[EventListLease], claimed_before: float, *, yields: bool) -> None:
        """Read one list after the other. With `yields`, stop when jobs wait for their polls."""
        while leases and not self._is_stopped(claimed_before) and not (yields and self._source.waiting):
            await self._read(leases.popleft(), claimed_before)

    async def _read(self, lease: EventListLease, claimed_before: float) -> None:
        """Read one list, and give its lease back. A failure is recorded, because it concerns this list only."""
        ended: EndedPass | None = None
        failure: Failure | None = None
        reading = EventReading(self._store, self._source, lease, claimed_before, self._lease_seconds)
        try:
            ended = await reading.read()
            self._logged = None
        except OutOfRequestsError:
            self._is_out_of_requests = True
        except LostLeaseError:
            log.warning("event_list.dropped", source=self._source.name, job=lease.id, reason="its lease was lost")
        except ApiError as e:
            failure = of_list(e.failure)
        except DatabaseUnavailableError:
            raise
        except Exception:  # noqa: BLE001  # an error of checkpointd itself must end this reading only, not the daemon
            log.exception("event_list.crashed", source=self._source.name, job=lease.id)
            failure = Failure(ErrorClass.INTERNAL, "an error of checkpointd itself: see its log")
        finally:  # also if cancelled, so that other daemons can claim the list
            now = reading.lease
            gap = 0.0 if ended is None and failure is None else next_gap(self._gap, now, failure)
            restart = failure is not None and (
                failure.error_class in JOB_FAILURES
                or (now.failures + 1 >= RESTART_FAILURES and failure.error_class not in SOURCE_FAILURES)
            )
            await event_lists.finish(self._store, now, gap, ended=ended, restart=restart, failure=failure)
        self._report(reading, failure)

    def _report(self, reading: EventReading, failure: Failure | None) -> None:
        """Count and log what a reading found."""
        source, job = self._source.name, reading.lease.id
        if new := [reject for reject in reading.rejects if reject.key not in self._rejected]:
            if len(self._rejected) >= KNOWN_REJECTS:
                self._rejected.clear()
            self._rejected.update(reject.key for reject in new)
            REJECTS.labels(source).inc(len(new))
            log.warning("event_list.rejected", source=source, job=job, items=len(new), reason=new[0].reason)
        if reading.left_out:
            log.warning("event_list.left_out", source=source, job=job, reason="too many events of this job are stored")
        if reading.new_steps or reading.new_messages:
            log.debug("event_list.read", source=source, job=job, steps=reading.new_steps, messages=reading.new_messages)
        if failure is None:
            return
        if failure.error_class in SOURCE_FAILURES:
            self._silent_until = asyncio.get_running_loop().time() + pause_seconds(failure)
        if failure.error_class != self._logged:
            self._logged = failure.error_class
            log.warning("event_list.failed", source=source, job=job, error_class=self._logged, error=failure.message)
