"""A source as this process serves it: its client, its slots, and how it fares."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checkpointd.api import Client
from checkpointd.failures import Failure
from checkpointd.store import Lease, Room

AHEAD_SECONDS: Final = 0.25
AHEAD_MOST: Final = 256
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
    refusal: Failure | None = None
    """Why this process's key was refused; None: it is good, as far as we know."""
    refusals: int = 0
    silent_until: float = 0.0
    _finished: int = 0
    _since: float = 0.0
    _ahead: int = 0

    def room(self, now: float) -> Room:
        """Return how many jobs to claim; of a refused key a single one, as a probe, once the silence is over."""
        if self.refusal:
            return Room(int(now >= self.silent_until and not self.in_flight), 1, self.emission)
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

    def refuse(self, refusal: Failure, now: float) -> None:
        """Fall silent: the key was refused. Refusals of polls that were under way meanwhile count once."""
        self.refusal = refusal
        if now >= self.silent_until:
            self.silent_until = now + PROBES[min(self.refusals, len(PROBES) - 1)]
            self.refusals += 1

    def accept(self) -> None:
        """Speak again: an answer was accepted."""
        self.refusal = None
        self.refusals = 0
        self.silent_until = 0.0
