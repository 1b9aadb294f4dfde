"""Simulated fine-tuning jobs: when their checkpoints are created, and when a listing shows them."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Self

USUAL_SPACING: Final = 720.0
"""The median seconds between two checkpoints of a job. The logarithm has a standard deviation of SPACING_SPREAD."""
SPACING_SPREAD: Final = 0.5

PAUSES: Final = {"queue": "queued for up to two hours", "hours": "pauses of an hour"}
"""When jobs make no progress: at the beginning, or before every seventh checkpoint."""


class SimulatedJob(NamedTuple):
    """A job. Times are in seconds since the job was tracked, which is when it started."""

    created: list[float]
    visible: list[float]
    """When each checkpoint is listed. Both are in the order of the steps."""
    ended: float
    pauses: Sequence[tuple[float, float]] = ()
    """The times in which it is queued or paused, if its status shows them."""
    epoch_estimate: float | None = None
    """The seconds that the provider estimates for an epoch, if it does."""

    def faster(self, speed: float) -> Self:
        """Return the same job, which runs so many times as fast."""
        created, visible = ([at / speed for at in times] for times in (self.created, self.visible))
        pauses = [(start / speed, end / speed) for start, end in self.pauses]
        estimate = self.epoch_estimate / speed if self.epoch_estimate else None
        return type(self)(created, visible, self.ended / speed, pauses, estimate)


Gaps = Callable[[random.Random, float], Iterator[float]]
"""Returns the seconds from one checkpoint to the next, without end, for a job with this spacing."""


def make_jobs(
    count: int,
    gaps: Gaps,
    *,
    seed: int,
    delay: str = "none",
    pauses: str = "none",
    estimate_error: float | None = None,
) -> list[SimulatedJob]:
    """Return jobs with 3 to 12 checkpoints. They end one to five minutes after the last one.

    `delay` is when a checkpoint is listed: `none`, at once; `job`, 2 to 8 minutes later, as long for all checkpoints of
    a job; `checkpoint`, 2 to 8 minutes later; `end`, at the end of the job.

    `pauses` is when a job makes no progress: `none`, never, or a key of PAUSES. With `, shown` after it, the status of
    the job shows it.

    With `estimate_error` the job record has `n_epochs`, one epoch for each checkpoint, and `estimated_finish`. The
    logarithm of its error has this standard deviation.
    """
    rng = random.Random(seed)
    jobs = [_make_job(rng, gaps, delay, pauses) for _ in range(count)]
    if estimate_error is None:
        return jobs
    return [
        job._replace(epoch_estimate=job.ended / len(job.created) * math.exp(rng.gauss(0, estimate_error)))
        for job in jobs
    ]


def _make_job(rng: random.Random, gaps: Gaps, delay: str, pauses: str) -> SimulatedJob:
    spacing = USUAL_SPACING * math.exp(rng.gauss(0, SPACING_SPREAD))
    kind, _, shown = pauses.partition(", ")
    now = rng.uniform(0, 7200) if kind == "queue" else 0.0
    created, paused = [], [(0.0, now)] if now else []
    following = gaps(rng, spacing)
    for _ in range(rng.randint(3, 12)):
        gap = next(following)
        if kind == "hours" and rng.random() < 1 / 7:
            at = now + rng.uniform(0, gap)
            paused.append((at, at + 3600))
            now += 3600
        now += gap
        created.append(now)
    ended, of_job = now + rng.uniform(60, 300), rng.uniform(120, 480)
    visible = {
        "none": lambda: created,
        "job": lambda: [at + of_job for at in created],
        "checkpoint": lambda: sorted(at + rng.uniform(120, 480) for at in created),
        "end": lambda: [ended] * len(created),
    }[delay]()
    return SimulatedJob(created, visible, max(ended, visible[-1]), paused if shown else ())


def regular(noise: float) -> Gaps:
    """Return gaps that vary by a share of the spacing."""

    def gaps(rng: random.Random, spacing: float) -> Iterator[float]:
        while True:
            yield spacing * max(1 + rng.gauss(0, noise), 0.05)

    return gaps


def growing(rng: random.Random, spacing: float) -> Iterator[float]:
    """Yield gaps that grow by half during a job of 8 checkpoints."""
    factor = 1.0
    while True:
        yield spacing * factor * max(1 + rng.gauss(0, 0.05), 0.05)
        factor += 0.5 / 7


def shrinking(rng: random.Random, spacing: float) -> Iterator[float]:
    """Yield gaps that become shorter by half during a job of 8 checkpoints."""
    factor = 1.0
    while True:
        yield spacing * factor * max(1 + rng.gauss(0, 0.05), 0.05)
        factor = max(factor - 0.5 / 7, 0.1)


def pairs(seconds: float) -> Gaps:
    """Return gaps of checkpoints that come in pairs, the second one so many seconds after the first."""

    def gaps(rng: random.Random, spacing: float) -> Iterator[float]:
        while True:
            yield max(2 * spacing - seconds, seconds) * max(1 + rng.gauss(0, 0.05), 0.05)
            yield seconds

    return gaps


def random_gaps(rng: random.Random, spacing: float) -> Iterator[float]:
    """Yield gaps without any regularity: those of a Poisson process."""
    while True:
        yield rng.expovariate(1 / spacing)


def two_kinds(rng: random.Random, _: float) -> Iterator[float]:
    """Yield regular gaps, of two minutes for half of the jobs, and of an hour for the others."""
    spacing = rng.choice([120.0, 3600.0])
    while True:
        yield spacing * max(1 + rng.gauss(0, 0.05), 0.05)
