"""When the checkpoints of a job arrived, and when the next one is expected. Pure.

A checkpoint arrives when a listing could contain it for the first time. This was between two polls, so the time of an
arrival is an estimate, with an error. All times are those of the database's clock, in Unix seconds.

If the provider states when a checkpoint was created (`created_at`), and publishes it after a delay that hardly varies,
the time of its arrival is the sum of the two. It is used only if it lies between the two polls.

The seconds between the arrivals of a job are its spacing. They vary by a share of it, the noise. The time in which the
job waits, because it is queued or paused by its status, does not count. A new job is expected to resemble the ended
jobs of its source whose first arrival was seen: see Prior. If the job record states an estimated end, that is also used
for the first arrival, as far as it predicted that of the ended jobs.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

PRIOR_WEIGHT: Final = 3
"""What is expected of the jobs of a new source counts as much as so many of its jobs."""

NOISE_WEIGHT: Final = 8
MOST_NOISE_WEIGHT: Final = 12
"""The noise of the prior counts as much as so many arrivals of the job. Prior and earlier arrivals count as much as so
many at most, so that the noise follows a job that changes."""

LEAST_NOISE: Final = 0.001
"""The noise with which the spacing is known, at least. Times in whole seconds can show none."""

DRIFT: Final = 0.02
"""The spacing of a job may change by about this share of it from one arrival to the next."""

MOST_LATE: Final = 4
"""An arrival that is later than expected by more than so many spacings counts as that late. So one long pause does not
hide what is known."""

MOST_DELAY: Final = 86400.0
"""A checkpoint is listed within so many seconds of its creation. An earlier `created_at` is not used."""

LEAST_RATIO_SPREAD: Final = 0.02
"""The standard deviation of the logarithm of the ratio, at least."""

UNIFORM: Final = 1 / math.sqrt(12)
"""The standard deviation of a time that lies anywhere in an interval, as a share of its length."""

CREATED_ERROR: Final = 0.3
"""The share of this error that remains if `created_at` tells when a checkpoint arrived."""

LARGEST: Final = 1e20
"""Numbers that are larger than this, and seconds that are smaller than its reciprocal, are damaged."""


class Learnt(NamedTuple):
    """The mean and the standard deviation of a value of so many jobs. Both are None without a job."""

    jobs: int
    mean: float | None
    spread: float | None

    def together_with(self, mean: float, spread: float) -> tuple[float, float]:
        """Return the mean and the standard deviation after PRIOR_WEIGHT further jobs with these."""
        if self.mean is None or self.spread is None:
            return mean, spread
        share = self.jobs / (self.jobs + PRIOR_WEIGHT)
        variance = share * self.spread**2 + (1 - share) * spread**2 + share * (1 - share) * (self.mean - mean) ** 2
        return share * self.mean + (1 - share) * mean, math.sqrt(variance)


class Spacing(NamedTuple):
    """The expected spacing of a job in seconds, and its standard deviation as a share of it."""

    seconds: float
    spread: float


class Prior(NamedTuple):
    """What is expected of the jobs of a source. Means and standard deviations of natural logarithms of seconds."""

    first_mean: float
    first_spread: float
    """The seconds from the start of tracking to the first arrival."""
    spacing_mean: float
    spacing_spread: float
    ratio_mean: float
    ratio_spread: float
    """The seconds to the first arrival, divided by the spacing."""
    noise: float
    """The standard deviation of the seconds between two arrivals, as a share of the spacing. It has no logarithm."""
    estimate_mean: float
    estimate_spread: float
    """The seconds to the first arrival, divided by those that the provider estimates for an epoch."""

    def first(self, estimate: float | None) -> tuple[float, float]:
        """Return the mean and the standard deviation of the logarithm of the seconds to the first arrival.

        `estimate` is the seconds that the provider estimates for an epoch, if it does.
        """
        if not estimate or estimate < 0:
            return self.first_mean, self.first_spread
        spread, estimate_spread = (max(s, LEAST_RATIO_SPREAD) for s in (self.first_spread, self.estimate_spread))
        weight, estimate_weight = spread**-2, estimate_spread**-2
        mean = weight * self.first_mean + estimate_weight * (self.estimate_mean + math.log(estimate))
        return mean / (weight + estimate_weight), (weight + estimate_weight) ** -0.5

    def spacing(self, first: float | None, error: float = 0.0) -> Spacing:
        """Return the expected spacing of a job after its first arrival, which came after `first` seconds, if known.

        `error` is the standard deviation of this time, in seconds.
        """
        if not first:
            return Spacing(math.exp(self.spacing_mean), self.spacing_spread)
        weight, ratio_weight = self.spacing_spread**-2, self._ratio_weight(first, error)
        mean = weight * self.spacing_mean + ratio_weight * (math.log(first) - self.ratio_mean)
        return Spacing(math.exp(mean / (weight + ratio_weight)), (weight + ratio_weight) ** -0.5)

    def spread_of_spacing(self, first: float | None, error: float) -> float:
        """Return the standard deviation of spacing() alone."""
        if not first:
            return self.spacing_spread
        return 1 / math.sqrt(self.spacing_spread**-2 + self._ratio_weight(first, error))

    def _ratio_weight(self, first: float, error: float) -> float:
        return 1 / (max(self.ratio_spread, LEAST_RATIO_SPREAD) ** 2 + (error / first) ** 2)

    def after(self, first: Learnt, spacing: Learnt, ratio: Learnt, noise: Learnt, estimate: Learnt) -> Self:
        """Return what is expected after these jobs. This prior counts as much as PRIOR_WEIGHT jobs."""
        square = Learnt(noise.jobs, noise.mean**2 if noise.mean is not None else None, 0.0)
        return type(self)(
            *first.together_with(self.first_mean, self.first_spread),
            *spacing.together_with(self.spacing_mean, self.spacing_spread),
            *ratio.together_with(self.ratio_mean, self.ratio_spread),
            math.sqrt(square.together_with(self.noise**2, 0.0)[0]),
            *estimate.together_with(self.estimate_mean, self.estimate_spread),
        )


class Arrivals(NamedTuple):
    """A summary of the arrivals of a job. The fields are columns of `polling`."""

    newest_step: int | None = None
    """The largest step, or None before the first arrival."""
    newest_seen_at: float | None = None
    """When it arrived."""
    arrivals: int = 0
    """How many there were. Checkpoints that arrived at the same time are one."""
    arrival_error_s: float = 0.0
    """The standard deviation of `newest_seen_at`."""
    first_arrival_s: float | None = None
    """The seconds from the start of tracking to the first arrival. None if it was there when tracking began."""
    spacing_s: float | None = None
    spread_s: float | None = None
    """The standard deviation of the seconds between two arrivals."""
    publication_delay_s: float = 0.0
    """The seconds between `created_at` of a checkpoint and its arrival."""

    def spacing_variance(self, prior: Prior) -> float:
        """Return the variance of the spacing itself, as a share of its square."""
        first = prior.spread_of_spacing(self.first_arrival_s, self.arrival_error_s) ** 2
        if not self.spacing_s or self.spread_s is None:
            return first
        noise, blur = (self.spread_s / self.spacing_s) ** 2, (self.arrival_error_s / self.spacing_s) ** 2
        return _spacing_variance(first, self.arrivals, noise, blur)


def _spacing_variance(first: float, arrivals: int, noise: float, blur: float) -> float:
    """Return the variance of the spacing, which was `first` before its arrivals.

    `noise` and `blur` are the variances of the seconds between two arrivals, and of the time of one arrival. All are
    shares of the square of the spacing.
    """
    if arrivals < 2:
        return first
    noise = max(noise, LEAST_NOISE**2)
    drift = (DRIFT**2 + DRIFT * math.sqrt(DRIFT**2 + 4 * noise)) / 2
    return max(1 / (1 / first + (arrivals - 1) / (noise + 2 * blur)), drift)


def is_damaged(known: Arrivals, *times: float | None) -> bool:
    """Return whether nothing can be computed with these numbers: one is not finite, or its powers would not be."""
    are_finite = all(-LARGEST < n < LARGEST for n in (*known[1:], *times) if n)  # no comparison with NaN is true
    return not are_finite or any(n < 1 / LARGEST for n in (known.spacing_s, known.first_arrival_s) if n)


def learn(
    known: Arrivals,
    listed: Iterable[tuple[int, int | None]],
    *,
    previous: float | None,
    now: float,
    tracked_at: float,
    prior: Prior,
    waited: float = 0.0,
) -> Arrivals:
    """Return the arrivals after a poll at `now` that listed these steps, with their `created_at`.

    `previous` is the time of the last complete listing, or None if this is the first one. The job has waited for
    `waited` seconds since the last arrival, or since the start of tracking. Nothing is known by damaged numbers.
    """
    new = sorted({step: at for step, at in listed if known.newest_step is None or step > known.newest_step}.items())
    if not new:
        return known
    if is_damaged(known, waited):
        known, waited = Arrivals(newest_step=known.newest_step), 0.0
    since = max(previous or tracked_at, tracked_at, known.newest_seen_at or tracked_at)
    created = [at for _, at in new]
    known = known._replace(newest_step=new[-1][0])
    if previous is None:
        return _learn_backlog(known, created, now, prior)
    count = len(new) if now - since > (known.spacing_s or math.inf) / 2 else 1
    at, error, known = _time_of_arrival(created[-1], known, min(since, now), now, count)
    if known.newest_seen_at is None:
        return _arrive_first(known, at, error, created[-1], tracked_at + waited, prior)
    if previous < tracked_at:  # it was tracked again: nobody looked meanwhile
        return known._replace(newest_seen_at=at, arrival_error_s=error)
    known = known._replace(newest_seen_at=known.newest_seen_at + waited)
    if count == 1:
        return _arrive(known, [at], error, prior)
    earlier = [moment + known.publication_delay_s for moment in created[:-1] if moment is not None]
    if len(earlier) == count - 1 and all(since <= moment <= at for moment in earlier):
        return _arrive(known, sorted({*earlier, at}), error, prior)
    return _arrive(known, [at], error, prior, count)


def _learn_backlog(known: Arrivals, created: Sequence[int | None], now: float, prior: Prior) -> Arrivals:
    """Return the arrivals after a first listing, by `created_at`. Equal times, or future ones, are one arrival."""
    valid = [min(float(at), now) for at in created if at is not None and at > 0]
    if len(valid) < len(created):  # the newest may have arrived just now, or a whole spacing ago
        return _start(known, now, 2 * UNIFORM * prior.spacing(None).seconds, None, prior)
    times = sorted(set(valid))
    return _arrive(_start(known, times[0], 0.0, None, prior), times[1:], 0.0, prior)


def _time_of_arrival(
    created: int | None, known: Arrivals, since: float, now: float, count: int
) -> tuple[float, float, Arrivals]:
    """Return when the last of `count` checkpoints arrived, the error, and the arrivals with a new delay.

    They arrived between `since` and `now`, regularly. The delay is changed by as little as possible, so that
    `created_at` and the delay lead into this interval.
    """
    part = (now - since) / count
    middle, error = now - part / 2, part * UNIFORM
    if created is None or not since - MOST_DELAY <= created <= now:
        return middle, error, known
    at = created + known.publication_delay_s
    if since <= at <= now:
        return at, error * CREATED_ERROR, known
    nearest = middle if known.newest_seen_at is None else min(max(at, since), now)
    return middle, error, known._replace(publication_delay_s=max(nearest - created, 0.0))


def _arrive_first(
    known: Arrivals, at: float, error: float, created: int | None, tracked_at: float, prior: Prior
) -> Arrivals:
    """Return the arrivals after the first one. The spacing follows from the time to it, and from the prior."""
    delay = known.publication_delay_s if created is not None and created > tracked_at else 0.0
    return _start(known, at, error, max(at - delay - tracked_at, 1.0), prior)


def _start(known: Arrivals, at: float, error: float, first: float | None, prior: Prior) -> Arrivals:
    """Return the arrivals of a job of which only this one is known, `first` seconds after its tracking began."""
    spacing = prior.spacing(first, error).seconds
    return known._replace(
        newest_seen_at=at,
        arrivals=1,
        arrival_error_s=error,
        first_arrival_s=first,
        spacing_s=spacing,
        spread_s=prior.noise * spacing,
    )


def _arrive(known: Arrivals, times: Sequence[float], error: float, prior: Prior, count: int = 1) -> Arrivals:
    """Return the arrivals after those at `times`. Each stands for `count` regular ones, of which it was the last."""
    if not known.spacing_s or known.spread_s is None or known.newest_seen_at is None:
        first, *later = times
        return _arrive(_start(known, first, error, known.first_arrival_s, prior), later, error, prior, count)
    arrivals, last, last_error = known.arrivals, known.newest_seen_at, known.arrival_error_s
    spacing, noise = known.spacing_s, (known.spread_s / known.spacing_s) ** 2
    for at in times:
        relative = min(max(at - last, 0.0) / count / spacing - 1, MOST_LATE)
        last_blur = (last_error / spacing) ** 2
        blur = last_blur + (error / spacing) ** 2
        variance = prior.spread_of_spacing(known.first_arrival_s, last_error) ** 2
        variance = _spacing_variance(variance, arrivals, noise, last_blur)
        gain = variance / (variance + noise + blur)
        unexplained = max(relative**2 - blur, 0.0) * (noise + blur) / (noise + blur + variance)
        weight = min(NOISE_WEIGHT + arrivals - 1, MOST_NOISE_WEIGHT)
        noise = (weight * noise + unexplained) / (weight + 1)
        spacing = max(spacing * (1 + gain * relative), 1.0)
        arrivals, last, last_error = arrivals + 1, at, error
    return known._replace(
        newest_seen_at=last,
        arrivals=arrivals,
        arrival_error_s=last_error,
        spacing_s=spacing,
        spread_s=math.sqrt(noise) * spacing,
    )
