"""A source as this process serves it: its client, its slots, and how it fares."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.domain.failure import ErrorClass, Failure, pause_seconds
from checkpointd.postgres.store import Lease, Room
from checkpointd.provider.client import Client

AHEAD_SECONDS: Final = 0.25
AHEAD_MOST: Final = 512
"""Jobs are claimed beyond the free slots only as far as the source will start them within so many seconds."""

PROBES: Final = (60.0, 120.0, 300.0, 900.0)
"""Seconds of silence after this process's key was refused the first, second, … time in a row."""


class Claim(NamedTuple):
    """A claimed job on its way: until when it may be polled, and until when saved."""

    lease: Lease
    poll_by: float
    save_by: float


@dataclass(slots=True)
class Service:
    """One source. Times are the event loop's."""

    key: int
    name: str
    client: Client
    concurrency: int
    emission: float | None
    """Seconds between requests by the source's budget; None: no budget."""
    waiting: deque[Claim] = field(default_factory=deque)
    """Claimed jobs that no worker has taken up."""
    workers: int = 0
    in_flight: int = 0
    """Polls claimed and not yet finished."""
    failing: int = 0
    """How many of them are of failing jobs."""
    trouble: Failure | None = None
    """Why the provider last turned this process away; None: it did not, since the last answer."""
    well: bool = False
    """The last answer that was no trouble came after the last refusal."""
    refusals: int = 0
    """How often in a row this process's key was refused; 0: it is good, as far as we know."""
    silent_until: float = 0.0
    _finished: int = 0
    _since: float = 0.0
    _ahead: int = 0

    def is_silent(self, now: float) -> bool:
        """Say whether to ask nothing now: the provider asked for a pause, or refused the key."""
        return now < self.silent_until

    def room(self, now: float) -> Room:
        """Return how many jobs to claim; of a refused key a single one, as a probe, once the silence is over."""
        if self.is_silent(now):
            return Room(0, 0, self.emission)
        if self.refusals:
            return Room(int(not self.in_flight), 1, self.emission)
        if now - self._since > 0.1:
            rate = self._finished / (now - self._since)
            self._ahead = min(int(rate * AHEAD_SECONDS), AHEAD_MOST)
            self._finished, self._since = 0, now
        failing = max(self.concurrency // 4, 1) - self.failing
        return Room(max(self.concurrency + self._ahead - self.in_flight, 0), max(failing, 0), self.emission)

    @property
    def hungry(self) -> bool:
        """Half of what it can take is free: a claim is worth while."""
        return self.in_flight <= (self.concurrency + self._ahead) // 2

    def begin(self, claim: Claim) -> None:
        """Let a claimed job wait for a worker."""
        self.waiting.append(claim)
        self.in_flight += 1
        self.failing += claim.lease.failures > 0

    def end(self, claim: Claim) -> None:
        """Count a finished poll."""
        self.in_flight -= 1
        self.failing -= claim.lease.failures > 0
        self._finished += 1

    def suffer(self, failure: Failure, now: float) -> None:
        """Fall silent: the key was refused, or a pause is asked for. What was under way meanwhile counts once."""
        if now < self.silent_until:
            return
        self.trouble = failure
        if failure.error_class is ErrorClass.REFUSED:
            self.silent_until = now + PROBES[min(self.refusals, len(PROBES) - 1)]
            self.refusals += 1
            self.well = False
        else:
            self.silent_until = now + pause_seconds(failure)

    def accept(self, now: float) -> None:
        """Speak again: an answer was accepted, and not one that was under way when silence fell."""
        if self.is_silent(now):
            return
        self.trouble = None
        self.refusals = 0
        self.well = True
