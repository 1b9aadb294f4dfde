"""The slots of a source: how many of its polls may run at the same time.

Each running poll takes one of `concurrency` slots. A poll gives its slot up when it is overtaken: it is slow, while
others are read quickly. So slow jobs delay no others, however many they are, and a slow source gets no more requests.

- A poll is overtaken if another one, which ended meanwhile, has read its list in at most a quarter of the time for
  which this one has been running. Polls younger than an eightieth of the request timeout are never overtaken.
- If all slots are taken, and no poll has started for a while, one more may start. It tests whether the source answers
  others. If it does, the polls that hold the slots are overtaken.
- If so many are overtaken that `most` polls run, those whose requests have been running longest are cut off, to make
  room for the jobs that wait. If the last poll of the job was slow, too, but read the list, this one may take four
  times as long. One that waits for the rate limit is not cut off.

Times are on the event loop's clock, in seconds.
"""

import asyncio
import math
from typing import Final

QUICK_SHARE: Final = 1 / 80
"""The share of the request timeout within which a poll is never overtaken."""

LONGEST_TEST_GAP: Final = 8
"""Each test without an answer lengthens the gap before the next one, up to eight times. This is a second by default."""

CUT_OFF_SHARE: Final = 1 / 10
"""The share of the request timeout before which no request is cut off."""

QUICKER: Final = 4
"""A poll is overtaken by one that was this many times as quick."""

MOST_PER_SLOT: Final = 5
"""So many polls may run for each slot, at most, if all but one of them are overtaken."""


class RunningPoll:
    """A poll that runs."""

    __slots__ = ("cut_off", "has_ended", "is_cut_off", "job", "quickest", "sent", "started", "was_read")

    def __init__(self, job: int, started: float) -> None:
        self.job = job
        self.started = started
        self.sent = math.inf
        """When its present request was sent, or infinity if it waits for the rate limit."""
        self.cut_off = asyncio.Timeout(None)
        """Ends the listing when its time is set."""
        self.quickest = math.inf
        """How long the quickest poll took that has read its list since this one started."""
        self.has_ended = False
        """True if its listing has ended. It keeps its slot until its result is in the save queue."""
        self.was_read = False
        self.is_cut_off = False


class Slots:
    """The running polls of a source."""

    def __init__(self, concurrency: int, most: int, request_timeout: float) -> None:
        self.concurrency = concurrency
        self.quick_seconds = QUICK_SHARE * request_timeout
        """For how many seconds a poll is never overtaken."""
        self._most = most
        self._timeout = request_timeout
        self._running: dict[RunningPoll, None] = {}
        """In the order of their starts. A job has two if its lease ended first, as after a step of the clock."""
        self._last_start = -math.inf
        self._usual = 0.0
        """How long the last poll took that read its list."""
        self._slow_jobs: dict[int, float] = {}
        """The jobs whose last polls read their lists, but could have been cut off before, and how long they took."""

    @property
    def running(self) -> int:
        """How many polls run."""
        return len(self._running)

    def start(self, job: int, now: float) -> RunningPoll:
        """Add a poll that starts now."""
        self._last_start = now
        poll = RunningPoll(job, now)
        self._running[poll] = None
        return poll

    def end(self, poll: RunningPoll, now: float, *, was_read: bool) -> None:
        """Record that the listing of a poll has ended, and whether the list was read."""
        poll.has_ended, poll.was_read = True, was_read
        self._slow_jobs.pop(poll.job, None)
        if not was_read:
            return
        self._usual = seconds = now - poll.started
        if seconds >= CUT_OFF_SHARE * self._timeout:
            self._slow_jobs[poll.job] = seconds
        for other in self._running:
            if seconds < other.quickest:  # noqa: PLR1730  # min() takes three times as long
                other.quickest = seconds

    def finish(self, poll: RunningPoll) -> None:
        """Remove a poll."""
        del self._running[poll]

    def overtaken(self, now: float) -> int:
        """Return how many polls have given their slots up."""
        return len(self._overtaken(now))

    def room(self, now: float) -> int:
        """Return how many polls may start now."""
        return max(min(self._free(now), self._most - self.running), 0)

    def may_test(self, now: float) -> bool:
        """Return whether one more poll may start, to test a source whose slots are all taken."""
        excess = -self._free(now)
        if excess < 0 or self.running >= self._most:
            return False
        gap = max(QUICKER * self._usual, self.quick_seconds) * (1 + excess)
        return now - self._last_start >= min(gap, LONGEST_TEST_GAP * self.quick_seconds)

    def make_room(self, now: float) -> list[RunningPoll]:
        """Return the polls to cut off, which is some if so many are overtaken that too few can start.

        Their requests have been sent, and no poll is returned twice.
        """
        if self.running < self._most:
            return []
        leaving = sum(poll.is_cut_off for poll in self._running)
        missing = max(self._free(now), 1) - (self._most - self.running) - leaving
        hopeless = [poll for poll in self._overtaken(now) if now - poll.sent > self._patience(poll)]
        chosen = sorted(hopeless, key=lambda poll: poll.sent)[: max(missing, 0)]
        for poll in chosen:
            poll.is_cut_off = True
        return chosen

    def _patience(self, poll: RunningPoll) -> float:
        """Return for how many seconds a request may run before it is cut off."""
        if poll.is_cut_off:
            return math.inf
        return max(CUT_OFF_SHARE * self._timeout, QUICKER * self._slow_jobs.get(poll.job, 0.0))

    def _overtaken(self, now: float) -> list[RunningPoll]:
        found = []
        for poll in self._running:
            age = now - poll.started
            if age < self.quick_seconds:
                break
            if not poll.has_ended and age >= QUICKER * poll.quickest:
                found.append(poll)
        return found

    def _free(self, now: float) -> int:
        """Return how many slots are free. It is negative if there are tests that are not answered."""
        return self.concurrency - self.running + self.overtaken(now)
