"""One source at run time: its client, how many jobs it can take now, its state, and its rate limit."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.domain.attribution import Attribution, SourceState
from checkpointd.domain.poll import Lease
from checkpointd.postgres.connection import database_deadline
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Capacity, Store
from checkpointd.provider.client import Client
from checkpointd.telemetry.logs import log

AHEAD_SECONDS: Final = 0.25
AHEAD_JOBS: Final = 512
"""Jobs beyond the free slots are claimed only if their polls will start within AHEAD_SECONDS; AHEAD_JOBS at most."""

REREAD_SECONDS: Final = 1.0
"""The interval at which a refused key, or refused credentials for the proxy, are read again."""


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
    """Reads the secrets again, and returns a client with new ones, or None if they are the same or cannot be read."""
    waiting: deque[Claim] = field(default_factory=deque)
    """Claimed jobs that no worker has started."""
    workers: int = 0
    in_flight: int = 0
    """Polls that are claimed and not finished."""
    failing: int = 0
    """How many of them are polls of failing jobs."""
    attribution: Attribution = field(default_factory=Attribution)
    """Whom failures concern, and the state of the source."""
    is_marked: bool = False
    """True if this process stored that the source refuses it or fails, and not yet that it is ok again."""
    login_refused: bool = False
    """True if the key or the credentials for the proxy were refused, for polls or for the job list, and no poll has
    succeeded since."""
    _finished: int = 0
    """Polls that finished since `_since`."""
    _since: float = 0.0
    _ahead: int = 0
    """How many jobs may be claimed beyond the free slots."""

    def capacity(self, now: float) -> Capacity:
        """Return how many jobs can be claimed. After a silence it is a few jobs, which test the source."""
        if self.attribution.is_silent(now):
            return Capacity(0, 0, self.request_interval)
        if (test_jobs := self.attribution.test_jobs(self.concurrency)) is not None:
            slots = max(test_jobs - self.in_flight, 0)
            return Capacity(slots, slots, self.request_interval)
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

    async def reread_login(self) -> None:
        """Read refused secrets again. If they are new, use them at once: the silence after the refusal ends."""
        if not self.login_refused or (client := await asyncio.to_thread(self.renew)) is None:
            return
        self.client, self.login_refused = client, False
        if self.attribution.failure and self.attribution.failure.refuses_login:
            self.attribution.end_silence()
        log.info("source.key_changed", source=self.name)


async def store_failure(store: Store, source: ActiveSource) -> None:
    """Store that a source refuses this process or fails for it, if it does."""
    attribution = source.attribution
    if attribution.failure is not None and attribution.state in {SourceState.REFUSED, SourceState.FAILING}:
        source.is_marked = True
        await store.fail_source(source.key, attribution.state, attribution.failure.message)


async def store_recovery(store: Store, sources: Iterable[ActiveSource]) -> None:
    """Store that sources are ok again, unless they are not ok for this process."""
    recovered = [source for source in sources if source.attribution.state is SourceState.OK]
    if recovered:
        await store.accept_sources([source.key for source in recovered])
    for source in recovered:
        source.is_marked = False


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
