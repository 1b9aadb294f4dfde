"""One source at run time: its client, how many jobs it can take now, its silence, and its rate limit.

A source is silent while this daemon sends it no requests, because it pauses or because it refused the key.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.domain.failure import ErrorClass, Failure, pause_seconds
from checkpointd.domain.poll import Lease
from checkpointd.postgres.connection import database_deadline
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Capacity, Store
from checkpointd.provider.client import Client
from checkpointd.telemetry.logs import log

AHEAD_SECONDS: Final = 0.25
AHEAD_JOBS: Final = 512
"""Jobs beyond the free slots are claimed only if their polls will start within AHEAD_SECONDS; AHEAD_JOBS at most."""

REFUSED_SILENCE: Final = (60.0, 120.0, 300.0, 900.0)
"""The seconds of silence after the key of this daemon was refused for the first, second, … time in a row."""

REREAD_SECONDS: Final = 1.0
"""The interval at which a refused key is read again."""


class Claim(NamedTuple):
    """A claimed job, and when its poll and its save must have ended, on the event loop's clock."""

    lease: Lease
    poll_by: float
    save_by: float


@dataclass(slots=True)
class ActiveSource:
    """One source of this process. Times are on the event loop's clock."""

    key: int
    name: str
    client: Client
    concurrency: int
    request_interval: float | None
    """Seconds between requests by the source's rate limit, or None without one."""
    renew: Callable[[], Client | None] = lambda: None
    """Reads the key again, and returns a client with the new key, or None if it is the same or cannot be read."""
    waiting: deque[Claim] = field(default_factory=deque)
    """Claimed jobs that no worker has started."""
    workers: int = 0
    in_flight: int = 0
    """Polls that are claimed and not finished."""
    failing: int = 0
    """How many of them are polls of failing jobs."""
    failure: Failure | None = None
    """Why the source last rejected a request of this process, or None if a request has succeeded since."""
    key_accepted: bool = False
    """True if a request succeeded since the key was last refused."""
    refusals: int = 0
    """How often in a row the key of this process was refused."""
    key_refused: bool = False
    """True if the key was refused, for polls or for the job list, and no poll has succeeded since."""
    silent_until: float = 0.0
    _finished: int = 0
    """Polls that finished since `_since`."""
    _since: float = 0.0
    _ahead: int = 0
    """How many jobs may be claimed beyond the free slots."""

    def is_silent(self, now: float) -> bool:
        """Return whether no request may be made now, because the source pauses or the key was refused."""
        return now < self.silent_until

    def capacity(self, now: float) -> Capacity:
        """Return how many jobs can be claimed. After a refusal and its silence, it is one job, to test the key."""
        if self.is_silent(now):
            return Capacity(0, 0, self.request_interval)
        if self.refusals:
            return Capacity(int(not self.in_flight), 1, self.request_interval)
        if now - self._since > 0.1:
            rate = self._finished / (now - self._since)
            self._ahead = min(int(rate * AHEAD_SECONDS), AHEAD_JOBS)
            self._finished, self._since = 0, now
        # Failing jobs share a quarter of the slots, so that slow ones do not delay the others.
        failing = max(self.concurrency // 4, 1) - self.failing
        slots = self.concurrency + self._ahead - self.in_flight
        return Capacity(max(slots, 0), max(failing, 0), self.request_interval)

    @property
    def wants_jobs(self) -> bool:
        """True if half of the capacity is free, so that a claim is worth its cost."""
        return self.in_flight <= (self.concurrency + self._ahead) // 2

    def start(self, claim: Claim) -> None:
        """Add a claimed job to those that wait for a worker."""
        self.waiting.append(claim)
        self.in_flight += 1
        self.failing += claim.lease.failures > 0

    def finish(self, claim: Claim) -> None:
        """Count a finished poll."""
        self.in_flight -= 1
        self.failing -= claim.lease.failures > 0
        self._finished += 1

    def record_failure(self, failure: Failure, now: float) -> None:
        """Start the silence of the source, because the key was refused or a pause is needed.

        During the silence, the failures of requests that were sent before it do not count again.
        """
        if now < self.silent_until:
            return
        self.failure = failure
        if failure.error_class is ErrorClass.REFUSED:
            self.silent_until = now + REFUSED_SILENCE[min(self.refusals, len(REFUSED_SILENCE) - 1)]
            self.refusals += 1
            self.key_accepted = False
            self.key_refused = True
        else:
            self.silent_until = now + pause_seconds(failure)

    def record_success(self, now: float) -> None:
        """Forget past failures, unless the source is silent: then this request was sent before the silence."""
        if self.is_silent(now):
            return
        self.failure = None
        self.refusals = 0
        self.key_accepted = True
        self.key_refused = False

    async def reread_key(self) -> None:
        """Read a refused key again. If it is a new one, use it at once: the silence after the refusal ends."""
        if not self.key_refused or (client := await asyncio.to_thread(self.renew)) is None:
            return
        self.client, self.key_refused = client, False
        if self.failure and self.failure.error_class is ErrorClass.REFUSED:
            self.silent_until, self.refusals = 0.0, 1
        log.info("source.key_changed", source=self.name)


async def report_failure(store: Store, source: int, failure: Failure) -> None:
    """Store a failure of a source. A pause applies to all daemons, a refused key only to this one."""
    if failure.error_class is ErrorClass.REFUSED:
        await store.refuse_source(source, failure.message)
    else:
        await store.pause_source(source, pause_seconds(failure), failure.message)


class RateLimiter:
    """Makes the requests of one listing wait for the rate limit of the source, which all daemons share.

    The waits of a listing take at most half of its remaining time in all, so that a list of many pages is read to its
    end. If that exceeds the rate limit, no job is claimed until the excess is made up for.
    """

    def __init__(self, store: Store, source: int, request_interval: float | None, *, paid: int) -> None:
        """`request_interval` is in seconds, or None without a rate limit; the claim has charged `paid` requests."""
        self._store = store
        self._source = source
        self._request_interval = request_interval
        self._paid = paid
        self._wait_left = math.inf
        """The seconds that the next waits may take in all."""

    async def wait(self, deadline: float) -> None:
        """Wait until a request may be made; `deadline` is that of the listing, on the event loop's clock."""
        if self._request_interval is None:
            return
        if self._paid:
            self._paid -= 1
            return
        try:
            async with database_deadline(deadline):
                ahead = await self._store.charge_source(self._source, self._request_interval)
        except DatabaseUnavailableError:  # the rate limit is unknown, and nothing can be saved now anyway
            ahead = math.inf
        self._wait_left = min(self._wait_left, (deadline - asyncio.get_running_loop().time()) / 2)
        seconds = max(min(ahead, self._wait_left), 0.0)
        self._wait_left -= seconds
        await asyncio.sleep(seconds)
