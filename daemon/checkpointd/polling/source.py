"""One source at run time: its client, how many jobs it can take now, its state, and its rate limit."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.domain.attribution import OWN_FAILURES, Attribution, SourceState
from checkpointd.domain.cadence import SourceCadence
from checkpointd.domain.key_schedule import KeySchedule
from checkpointd.domain.poll import Lease
from checkpointd.polling.slots import MOST_PER_SLOT, Slots
from checkpointd.postgres.connection import database_deadline
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Capacity, ClaimOrder, Store
from checkpointd.provider.client import Client
from checkpointd.telemetry.logs import log

AHEAD_SECONDS: Final = 0.25
AHEAD_JOBS: Final = 512
"""Jobs beyond the free slots are claimed only if their polls will start within AHEAD_SECONDS; AHEAD_JOBS at most."""

LONGEST_AHEAD_SECONDS: Final = 1.0
"""If a job that was claimed ahead waits for longer than this, it is given back when the source is tested."""

SHORTAGE_SECONDS: Final = 10.0
"""With a rate limit, the slots are too few if each claim has filled them for this long. Otherwise the limit is the
reason why jobs wait: it permits a few requests at once, those of a second, and then too few to fill the slots."""

RESUMPTION_SECONDS: Final = 1.0
"""The interval at which a silent source looks for a resumption."""


class Claim(NamedTuple):
    """A claimed job, when it was claimed, and when its poll and its save must have ended, on the event loop's clock."""

    lease: Lease
    claimed_at: float
    poll_by: float
    save_by: float

    @property
    def is_lasting(self) -> bool:
        """True if the job fails lastingly. Jobs with fewer failures are claimed like healthy ones."""
        return self.lease.failures >= OWN_FAILURES


class Renewal(NamedTuple):
    """What came of reading the secrets of a source again."""

    client: Client | None = None
    """A client with new secrets, or None if they are the same or cannot be read."""
    seconds: float | None = None
    """The seconds until the key expires, or None if that is unknown."""
    problem: str | None = None
    """Why there is no key, or None. A file that is missing for a moment is no problem."""


async def keep_login() -> Renewal:
    """Return that the secrets are the same."""
    return Renewal()


@dataclass(slots=True)
class ActiveSource:
    """One source of this process. Times are on the event loop's clock."""

    key: int
    """The key of its row. It changes if the row is lost in a restore: see service/database_changes.py."""
    name: str
    client: Client
    concurrency: int
    request_interval: float | None
    """Seconds between requests by the source's rate limit, or None without one."""
    renew: Callable[[], Awaitable[Renewal]] = keep_login
    """Reads the secrets again: see login.py."""
    key_schedule: KeySchedule = field(default_factory=lambda: KeySchedule(is_command=False))
    has_key: bool = True
    """False until the command that prints the key has succeeded. Until then no request is sent."""
    most_polls: int | None = None
    """How many polls may run at most, with those that have given their slots up; or None for the default."""
    restores: int = 0
    """How often the database may have been restored: what this process remembers of its rows may not hold."""
    waiting: deque[Claim] = field(default_factory=deque)
    """Claimed jobs that no worker has started."""
    tests: deque[Claim] = field(default_factory=deque)
    """Claimed jobs that test the source while all slots are taken. They are started first."""
    workers: int = 0
    lasting: int = 0
    """How many of the claimed jobs fail lastingly."""
    has_more: bool = False
    """True if more jobs may be due, because the last claim filled the capacity."""
    has_more_lasting: bool = False
    """The same for jobs that fail lastingly."""
    slots: Slots = field(init=False)
    cadence: SourceCadence | None = None
    """What its ended jobs tell, and the price of a request: see learning.py. None before it is known."""
    attribution: Attribution = field(default_factory=Attribution)
    """Whom failures concern, and the state of the source."""
    is_marked: bool = False
    """True if this process stored that the source refuses it or fails, and not yet that it is ok again."""
    login_refused: bool = False
    """True if the key or the credentials for the proxy were refused, for polls or for the job list, and no poll has
    succeeded since."""
    _silent_after: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    """A time before the present silence began."""
    _test_order: ClaimOrder = ClaimOrder.RECENT
    """How the next test is chosen: those that were read most recently, and others, in turn."""
    _overdue_claimed: int = 0
    """How many more jobs were claimed because they were the longest overdue than at random."""
    _filled_since: float = math.inf
    """The time of the claim since which each one has filled the capacity, or infinity if the last one has not."""
    _read: int = 0
    """Polls that have read their lists since `_since`."""
    _since: float = 0.0
    _ahead: int = 0
    """How many jobs may be claimed beyond the free slots."""

    def __post_init__(self) -> None:
        """Create the slots."""
        most = self.most_polls or MOST_PER_SLOT * self.concurrency
        self.slots = Slots(self.concurrency, most, self.client.request_timeout)

    def is_silent(self, now: float) -> bool:
        """Return whether no request may be made now."""
        return not self.has_key or self.attribution.is_silent(now)

    def capacity(self, now: float) -> Capacity:
        """Return how many jobs can be claimed. After a silence it is a few jobs, which test the source.

        Jobs that fail lastingly share a quarter of the capacity, so that they do not crowd out the others.
        """
        if self.is_silent(now):
            return Capacity(0, 0, self.request_interval)
        if (test_jobs := self.attribution.test_jobs(self.concurrency)) is not None:
            slots = max(test_jobs - self.claimed + self.slots.overtaken(now), 0)
            order = ClaimOrder.RECENT if self.attribution.tests_recent_jobs else ClaimOrder.RANDOM
            return Capacity(slots, slots, self.request_interval, order)
        if now - self._since > 0.1:
            rate = self._read / (now - self._since)
            self._ahead = min(int(rate * AHEAD_SECONDS), AHEAD_JOBS)
            self._read, self._since = 0, now
        if self.slots.may_test(now) and not self.tests:
            return Capacity(1, 0, self.request_interval, self._test_order, is_test=True)
        overtaken = self.slots.overtaken(now)
        slots = self.concurrency + self._ahead - self.claimed + overtaken
        lasting = self._most_lasting - self.lasting
        # If more jobs are due than slots are free, half of them are chosen at random: the longest overdue may be slow.
        is_short = self.has_more and (self.request_interval is None or now - self._filled_since >= SHORTAGE_SECONDS)
        order = ClaimOrder.RANDOM if is_short and self._overdue_claimed > 0 else ClaimOrder.OVERDUE
        return Capacity(max(slots, 0), max(lasting, 0), self.request_interval, order)

    @property
    def claimed(self) -> int:
        """How many polls are claimed and not finished."""
        return len(self.tests) + len(self.waiting) + self.slots.running

    @property
    def _most_lasting(self) -> int:
        return max((self.concurrency + self._ahead) // 4, 1)

    def add(self, claims: Sequence[Claim], *, are_tests: bool) -> None:
        """Add claimed jobs."""
        self.lasting += sum(claim.is_lasting for claim in claims)
        (self.tests if are_tests else self.waiting).extend(claims)

    def record_claim(self, claims: Sequence[Claim], capacity: Capacity, now: float) -> None:
        """Record whether more jobs may be due after a claim of due jobs, and how the next ones are chosen."""
        if capacity.is_test:
            is_random = capacity.claim_order is ClaimOrder.RANDOM
            self._test_order = ClaimOrder.RECENT if is_random else ClaimOrder.RANDOM
        else:
            claimed = -len(claims) if capacity.claim_order is ClaimOrder.RANDOM else len(claims)
            self._overdue_claimed = max(min(self._overdue_claimed + claimed, self.concurrency), 0)
        self.has_more = len(claims) >= capacity.slots
        self._filled_since = min(self._filled_since, now) if self.has_more else math.inf
        if capacity.failing_slots:
            self.has_more_lasting = sum(claim.is_lasting for claim in claims) >= capacity.failing_slots

    def take(self, now: float) -> Claim | None:
        """Take and return the next job to poll. Returns None if no job waits or no slot is free."""
        if self.tests:
            return self.tests.popleft()
        return self.waiting.popleft() if self.waiting and self.slots.room(now) else None

    def is_stuck(self, now: float) -> bool:
        """Return whether the waiting jobs have been waiting for too long, because all slots are taken."""
        is_late = bool(self.waiting) and now - self.waiting[0].claimed_at > LONGEST_AHEAD_SECONDS
        return is_late and self.slots.may_test(now)

    def take_back(self) -> Iterable[Claim]:
        """Take all claimed jobs back whose polls have not started."""
        claims = [*self.tests, *self.waiting]
        self.tests.clear()
        self.waiting.clear()
        return claims

    def wants_jobs(self, now: float) -> bool:
        """Return whether a claim is worth its cost: more jobs may be due, and half of the capacity is free."""
        if self.has_more_lasting and self.lasting <= self._most_lasting // 2:
            return True
        return self.has_more and self.claimed - self.slots.overtaken(now) <= (self.concurrency + self._ahead) // 2

    def finish(self, claim: Claim, *, was_read: bool = False) -> None:
        """Count a finished poll, or a claim that was released."""
        self.lasting -= claim.is_lasting
        self._read += was_read

    async def notice_resumption(self, store: Store) -> None:
        """End the silence, whatever its cause, if a command has let all daemons send requests since it began."""
        now = asyncio.get_running_loop().time()
        if self.is_silent(now):
            try:
                if not await store.was_resumed(self.key, now - self._silent_after):
                    return
            except DatabaseUnavailableError:  # the claims report it
                return
            self.attribution.end_silence()
            if not self.has_key:
                self.key_schedule.hurry()
            log.info("source.resumed", source=self.name)
        self._silent_after = now


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
