"""Simulates the cadence alone, without a database and without requests."""

import heapq
import math
import random
from collections.abc import Sequence
from statistics import fmean, median, pstdev
from typing import Final, NamedTuple, Self

from benchmarks.worlds import SimulatedJob
from checkpointd.domain import cadence
from checkpointd.domain.arrivals import Arrivals, Learnt, Prior, learn
from checkpointd.domain.cadence import CadenceSettings, SourceCadence
from checkpointd.postgres.arrivals import LEARN_SECONDS

START: Final = 1_793_491_200.0

TICKS: Final = 4
"""The daemon claims due jobs so many times within its shortest gap, but once a second at least."""

LATEST: Final = 200
POLLS_SHARE: Final = 0.9
"""As the daemon does, the simulation learns from so many jobs that ended last, and leaves a tenth of the rate limit to
other requests than polls."""

UNLIMITED: Final = 1e9
"""More requests per minute than any number of jobs needs."""

EPSILON: Final = 1e-6
"""Times that differ by no more than this are the same."""


class Pace(NamedTuple):
    """The settings and intervals of a daemon, in seconds."""

    settings: CadenceSettings = CadenceSettings(shortest=15, longest=300, settle=86400, assume_ended=3 * 86400)
    job_list: float = 30.0
    """The interval at which the job list is read. A job that has a new status there is polled at once."""
    start_gap: float = 30.0
    """From the start of one job to that of the next one."""
    tick: float = 1.0
    """The interval at which due jobs are claimed."""
    learn: float = LEARN_SECONDS

    def faster(self, speed: float) -> Self:
        """Return the pace for jobs that run so many times as fast. The interval of learning cannot be set."""
        settings = self.settings._replace(
            shortest=self.settings.shortest / speed, longest=self.settings.longest / speed, settle=0
        )
        tick = min(1.0, settings.shortest / TICKS)
        job_list, start_gap = self.job_list / speed, self.start_gap / speed
        return self._replace(settings=settings, job_list=job_list, start_gap=start_gap, tick=tick)


USUAL: Final = Pace()


class Figures(NamedTuple):
    """The ages of checkpoints in seconds when they were first seen."""

    median: float
    mean: float
    p99: float

    @classmethod
    def of(cls, ages: Sequence[float]) -> Self:
        """Return the figures of some ages."""
        return cls(median(ages), fmean(ages), sorted(ages)[int(0.99 * len(ages))])


class Ended(NamedTuple):
    """A job that was polled, and when it was polled after its end, in seconds since its start."""

    job: SimulatedJob
    end: float


class Outcome(NamedTuple):
    """What was measured."""

    requests: float
    """Polls for each job."""
    ours: Figures
    fixed: Figures
    """Those of a fixed interval that sends as many requests to the same jobs."""

    @property
    def ratios(self) -> Figures:
        """Our figures, divided by those of the fixed interval."""
        return Figures(*(ours / fixed for ours, fixed in zip(self.ours, self.fixed, strict=True)))

    @classmethod
    def of(cls, ages: Sequence[float], polls: int, ended: Sequence[Ended]) -> Self:
        """Return the outcome for jobs whose checkpoints were so old when they were first seen by so many polls."""
        return cls(polls / len(ended), Figures.of(ages), Figures.of(_fixed_ages(ended, polls)))


def _fixed_ages(ended: Sequence[Ended], polls: int) -> list[float]:
    """Return the ages with a fixed interval, which sends as many requests to the same jobs."""
    interval, rng, ages = sum(end for _, end in ended) / polls, random.Random(polls), list[float]()
    for job, _ in ended:
        first = rng.uniform(0, interval)
        ages += [first + math.ceil((at - first) / interval) * interval - at for at in job.visible]
    return ages


class _Run:
    """A job that is being simulated. Times are in seconds since its start."""

    def __init__(self, key: int, job: SimulatedJob, pace: Pace, rng: random.Random) -> None:
        self.key = key
        self.job = job
        self.pace = pace
        self.start = key * pace.start_gap
        self.phase = rng.uniform(0, pace.job_list)
        self.changes = [self._listed(at) for pause in job.pauses for at in pause]
        """When the job list shows the beginnings and the ends of its pauses, in turn."""
        self.end = self._listed(job.ended)
        """When the job list shows that it has ended."""
        self.due, self.gap = self.start, pace.settings.shortest
        """When it is due, in seconds since the start of the simulation, and the gap before that."""
        self.has_ended = False
        """True if it was polled after its end."""
        self.seen = 0
        self.previous: float | None = None
        self.arrivals = Arrivals()

    def _listed(self, at: float) -> float:
        """Return when the job list shows what happened at this time."""
        return (math.floor((at - self.phase) / self.pace.job_list) + 1) * self.pace.job_list + self.phase

    def poll(self, at: float, source: SourceCadence) -> list[float]:
        """Poll the job, at this time since the start of the simulation. Returns the ages of new checkpoints."""
        started, job, now = START + self.start, self.job, at - self.start
        before = self.seen
        while self.seen < len(job.visible) and job.visible[self.seen] <= now:
            self.seen += 1
        waited = self._waited(now)
        if self.seen > before:
            listed = [(step, int(started + at)) for step, at in enumerate(job.created[: self.seen])]
            previous = None if self.previous is None else started + self.previous
            self.arrivals = learn(
                self.arrivals,
                listed,
                previous=previous,
                now=started + now,
                tracked_at=started,
                prior=source.prior,
                waited=waited,
            )
            waited = 0.0
        self.previous = now
        self.gap = cadence.plan(
            self.arrivals,
            job=self.key,
            status="paused" if sum(at <= now for at in self.changes) % 2 else "running",
            settling_since=None,
            tracked_at=started,
            now=started + now,
            settings=self.pace.settings,
            source=source,
            waited=waited,
            epoch_estimate=job.epoch_estimate,
        ).gap
        self.has_ended = now > self.end - EPSILON
        self.due = self.start + min(now + self.gap, self.end, *(at for at in self.changes if at > now))
        return [now - at for at in job.visible[before : self.seen]]

    def _waited(self, now: float) -> float:
        """Return for how long the job has waited since the last arrival, as the job list shows it."""
        changes = [*self.changes, math.inf]
        last = 0.0 if self.arrivals.newest_seen_at is None else self.arrivals.newest_seen_at - START - self.start
        return sum(
            max(min(end, now) - max(start, last), 0.0) for start, end in zip(changes[::2], changes[1::2], strict=False)
        )


def simulate(jobs: Sequence[SimulatedJob], pace: Pace = USUAL, *, requests_per_minute: float = UNLIMITED) -> Outcome:
    """Poll jobs of one source, which start one after the other, as the cadence plans it and the rate limit permits.

    Of the jobs that are due, the longest overdue come first, in proportion to their gaps, as in claim_due_jobs.sql.
    """
    rng = random.Random(len(jobs))
    runs = [_Run(key, job, pace, rng) for key, job in enumerate(jobs)]
    coming = [(run.due, run.key) for run in runs]
    due, running, ended = list[_Run](), set[_Run](), list[_Run]()
    source, learn_at, now, rate, permitted = pace.settings.unknown_source, 0.0, 0.0, requests_per_minute / 60, 0.0
    ages, polls = list[float](), 0
    while coming or due:
        before, now = now, now + pace.tick if due else math.ceil(coming[0][0] / pace.tick) * pace.tick
        while coming and coming[0][0] <= now + EPSILON:
            due.append(runs[heapq.heappop(coming)[1]])
        running.update(due)
        if now >= learn_at:
            needed = sum(1 / run.gap for run in running) / rate / POLLS_SHARE
            price = min(max(source.price * needed, 1.0), cadence.HIGHEST_PRICE)
            source = SourceCadence(_prior(ended[-LATEST:], pace.settings.unknown_source.prior), price)
            learn_at = now + pace.learn
        permitted = min(permitted + rate * (now - before), max(rate, 1.0))
        due.sort(key=lambda run: (run.due - now) / run.gap)
        polled = due[: int(min(permitted, len(due)))]
        for run in polled:
            ages += run.poll(now, source)
            if run.has_ended:
                ended.append(run)
                running.discard(run)
            else:
                heapq.heappush(coming, (run.due, run.key))
        del due[: len(polled)]
        permitted -= len(polled)
        polls += len(polled)
    return Outcome.of(ages, polls, [Ended(run.job, run.end) for run in runs])


def _prior(ended: Sequence[_Run], usual: Prior) -> Prior:
    """Return what is learnt of ended jobs, as sql/queries/learn_arrivals.sql computes it."""
    seen = [run.arrivals for run in ended if run.arrivals.first_arrival_s]
    several = [job for job in seen if job.arrivals > 1]
    firsts = [
        (run.arrivals.first_arrival_s + run.arrivals.publication_delay_s, run.job.epoch_estimate)
        for run in ended
        if run.arrivals.first_arrival_s
    ]
    return usual.after(
        first=_learnt([math.log(first) for first, _ in firsts]),
        spacing=_learnt([math.log(job.spacing_s) for job in several if job.spacing_s]),
        ratio=_learnt(
            [math.log(job.first_arrival_s / job.spacing_s) for job in several if job.first_arrival_s and job.spacing_s]
        ),
        noise=_noise(
            [job.spread_s / job.spacing_s for job in several if job.arrivals > 2 and job.spread_s and job.spacing_s]
        ),
        estimate=_learnt([math.log(first / estimate) for first, estimate in firsts if estimate]),
    )


def _learnt(values: Sequence[float]) -> Learnt:
    return Learnt(len(values), fmean(values), pstdev(values)) if values else Learnt(0, None, None)


def _noise(values: Sequence[float]) -> Learnt:
    return Learnt(len(values), math.sqrt(fmean(v * v for v in values)), 0.0) if values else Learnt(0, None, None)
