"""When to poll a job next. Pure: the state of the job and the time are arguments.

All times are those of the database's clock, in Unix seconds; all gaps are in seconds.

The cadence of a running job solves the problem of optimal inspection (R. E. Barlow, L. C. Hunter and F. Proschan,
"Optimum checking procedures", SIAM 1963): when to look for an event if each look has a price `c` and each second for
which the event is not seen costs one. If `h(t)` is the rate at which the event occurs at `t`, provided that it has not
occurred before, `sqrt(h(t) / 2c)` looks per second are best. The next poll is due when the integral of this density
since the last poll is 1.

- Before the next arrival is expected, the rate is small, and polls are rare. Around that time they are frequent.
- When the arrival is overdue, polls become rare again: the job may have paused, or it may be evaluated.
- While the job is queued or paused, by its status, no arrival is expected, and the time does not count.
- Whatever the rate and the price are, at least two polls fall into the expected spacing, as far as the shortest gap
  and a tenth more permit. Providers list only the checkpoints of the last three epochs.
- If the rate limit of the source permits too few requests, the price rises. With its root, the longest gap grows, too,
  up to four times as long: otherwise many polls that are made only because of it would take the place of others.
- A hash changes each gap by up to a tenth, within its limits, so that jobs that started together are not polled
  together.
"""

import math
from hashlib import blake2b
from typing import Final, NamedTuple

from checkpointd.domain.arrivals import Arrivals, Prior, is_damaged
from checkpointd.domain.job import has_ended, is_waiting

FAILURE_CAP: Final = 300.0
REFUSAL_CAP: Final = 3600.0
"""Each failure doubles the poll gap, up to FAILURE_CAP seconds, so that polls resume within minutes after any failure.
For LASTING_REFUSALS it is up to REFUSAL_CAP seconds, unless the source fails."""

GONE_GAP: Final = 86400.0
"""The poll gap of a job that is gone, in seconds."""
GONE_FAILURES: Final = 5
GONE_AFTER: Final = 3600.0
"""A job is gone if GONE_FAILURES polls in a row did not find it, over at least GONE_AFTER seconds."""


POLLS_PER_SPACING: Final = 2
"""At least so many polls fall into the expected spacing."""

HIGHEST_PRICE: Final = 16.0
"""The highest price of a request, as a multiple of the usual one. It makes the longest gap four times as long."""

IRREGULAR: Final = 0.05
IRREGULAR_NOISE: Final = 0.75
"""The share of arrivals that follow no regularity, if the noise of the job is small. It is 1 if the noise is this
large: then the arrivals are not predicted at all, and the gaps between polls are all the same."""

IRREGULAR_POWER: Final = 3
IRREGULAR_LENGTH: Final = IRREGULAR_POWER - 1
"""The power of the Lomax distribution of irregular arrivals, and its scale, as a multiple of the mean. Its rate falls
with the time since the last arrival, so that a job that has stopped is polled less and less often."""

FIRST_IRREGULAR: Final = 0.3
"""The share of first arrivals that do not resemble those of other jobs."""

NARROWER: Final = 0.9
"""The expected spread of an arrival is multiplied by this. So the median age of new checkpoints is smaller, and the
longest ages are longer."""

LOGISTIC: Final = math.pi / math.sqrt(3)
"""The standard deviation of the logistic distribution whose scale is 1."""

LEAST_SPREAD: Final = 0.2
"""The expected spread of an arrival, at least, as a share of the shortest gap: 3 s with the default of 15 s."""

JITTER: Final = 0.1
"""A hash changes each gap by up to this share of it."""

STEPS: Final = 8
LEAST_STEP: Final = 1 / 3
"""The density of polls is integrated in so many steps up to the longest gap, or in smaller ones around the expected
arrival, of this share of the shortest gap or more."""


USUAL_SPACING: Final = 60
USUAL_FIRST: Final = 80
"""What is expected of a source without ended jobs, as multiples of the shortest gap: the spacing, and the time to the
first arrival. With the default of 15 s these are 15 and 20 minutes, but a third of that, or three times as much, is no
surprise."""


class SourceCadence(NamedTuple):
    """What the polls of a source have in common. It is stored, so that all daemons decide the same."""

    prior: Prior
    price: float = 1.0
    """The price of a request is multiplied by this. It is more than 1 if the rate limit permits too few requests, but
    HIGHEST_PRICE at most."""


class CadenceSettings(NamedTuple):
    """The settings on which the cadence depends, in seconds."""

    shortest: float
    longest: float
    """The limits of the poll gap of a job that does not fail. A rate limit can make the longest one longer."""
    settle: float
    """How long a job is polled after its end, at least. Checkpoints and metrics can arrive hours after the end."""
    assume_ended: float
    """A job whose status is unknown counts as ended after this time without a change."""

    @property
    def price(self) -> float:
        """The price of a request: for so many seconds a checkpoint may rather be unseen than one more request be made.

        The operator chooses the shortest gap, so it follows from that.
        """
        return self.shortest / 3

    @property
    def unknown_source(self) -> SourceCadence:
        """What is expected of a source without ended jobs. The operator chooses the shortest gap to suit the jobs."""
        first, spacing = math.log(USUAL_FIRST * self.shortest), math.log(USUAL_SPACING * self.shortest)
        ratios = {"ratio_mean": 0.0, "ratio_spread": 0.7, "estimate_mean": 0.0, "estimate_spread": 1.0}
        return SourceCadence(Prior(first, 1.2, spacing, 1.0, noise=0.15, **ratios))

    def clamp(self, gap: float) -> float:
        """Return the nearest permitted gap."""
        return min(max(gap, self.shortest), self.longest)


class Plan(NamedTuple):
    """The seconds from the claim of this poll to the next poll, and whether equal listings may now seal the job."""

    gap: float
    settled: bool


def seems_ended(
    known: Arrivals,
    *,
    status: str | None,
    tracked_at: float,
    changed_at: float | None,
    now: float,
    settings: CadenceSettings,
) -> bool:
    """Return whether a job has ended.

    It has if its status is final, or if its status is unknown and nothing changed for longer than
    `settings.assume_ended`.
    """
    if has_ended(status):
        return True
    is_unknown = (status or "").casefold() != "running" and not is_waiting(status)
    last_news = max(tracked_at, known.newest_seen_at or tracked_at, changed_at or tracked_at)
    return is_unknown and now - last_news > settings.assume_ended


def plan(
    known: Arrivals,
    *,
    job: int,
    status: str | None,
    settling_since: float | None,
    tracked_at: float,
    now: float,
    settings: CadenceSettings,
    source: SourceCadence,
    waited: float = 0.0,
    epoch_estimate: float | None = None,
) -> Plan:
    """Return when to poll next.

    The job has waited for `waited` seconds since the last arrival, or since the start of tracking: see arrivals.py. The
    provider estimates `epoch_estimate` seconds for an epoch. If what is known is damaged, the gap is the longest one.
    """
    if source.price != 1:
        settings = settings._replace(longest=settings.longest * math.sqrt(source.price))
    share = _share(job, int(now))
    if settling_since is not None:
        since_end = now - settling_since
        gap = settings.clamp(since_end / 4)
        return Plan(_spread(gap, share, settings.shortest, settings.longest), settled=since_end >= settings.settle)
    if is_waiting(status) or is_damaged(known, tracked_at, waited, epoch_estimate):
        return Plan(_spread(settings.longest, share, settings.shortest, settings.longest), settled=False)
    if known.spacing_s is None or known.newest_seen_at is None:
        expected, since = _expect_first(*source.prior.first(epoch_estimate)), tracked_at
        spacing = math.exp(min(source.prior.spacing_mean, 30.0))
    else:
        expected, since = _expect_next(known, source.prior, LEAST_SPREAD * settings.shortest), known.newest_seen_at
        spacing = known.spacing_s
    longest = min(max(spacing / POLLS_PER_SPACING, (1 + JITTER) * settings.shortest), settings.longest)
    age = max(now - since - waited, 0.0)
    gap = _gap(expected, age, source.price * settings.price, LEAST_STEP * settings.shortest, longest)
    return Plan(_spread(min(max(gap, settings.shortest), longest), share, settings.shortest, longest), settled=False)


def _share(job: int, number: int) -> float:
    """Return a hash of a job and a number, from 0 to 1. crc32 would put the same jobs together for each number."""
    return int.from_bytes(blake2b(b"%d:%d" % (job, number), digest_size=4).digest()) / 2**32


def _spread(gap: float, share: float, shortest: float, longest: float) -> float:
    """Return a gap that differs from this one by up to JITTER of it, within the limits."""
    least, most = max((1 - JITTER) * gap, shortest), min((1 + JITTER) * gap, longest)
    return least + share * (most - least)


class _Expected(NamedTuple):
    """When an arrival is expected: in seconds since the last one, or since the start of tracking.

    The distribution is logistic, or log-logistic: then `mean` and `scale` are those of the logarithm. A share of the
    arrivals is irregular: they follow a Lomax distribution.
    """

    mean: float
    scale: float
    irregular: float
    irregular_mean: float
    is_logarithmic: bool = False


def _expect_first(mean: float, spread: float) -> _Expected:
    mean, scale = min(max(mean, 0.0), 30.0), max(spread, 0.01) / LOGISTIC
    return _Expected(mean, scale, FIRST_IRREGULAR, math.exp(mean), is_logarithmic=True)


def _expect_next(known: Arrivals, prior: Prior, least_spread: float) -> _Expected:
    spacing = known.spacing_s or 1.0
    noise = (known.spread_s or 0.0) / spacing
    variance = (noise**2 + known.spacing_variance(prior)) * spacing**2 + known.arrival_error_s**2
    scale = NARROWER * math.sqrt(max(variance, least_spread**2)) / LOGISTIC
    irregular = min(IRREGULAR + (noise / IRREGULAR_NOISE) ** 4, 1.0)
    return _Expected(spacing, scale, irregular, spacing)


def _gap(expected: _Expected, age: float, price: float, least_step: float, longest: float) -> float:
    """Return the seconds until the integral of the density of polls is 1, but `longest` at most.

    The density follows from the rate: the arrivals per second at an age, provided that there was none before. It hardly
    changes within half of the scale, or within a part of the distance from the mean.

    Each poll needs this, and it is the largest part of its evaluation. So the steps call no functions of ours.
    """
    mean, scale, irregular_share, irregular_mean, is_logarithmic = expected
    length = IRREGULAR_LENGTH * irregular_mean
    longest_step = longest / STEPS
    shortest_step = longest_step if is_logarithmic else min(max(scale / 2, least_step), longest_step)
    gap = total = 0.0
    while gap < longest:
        step = abs(age + gap - mean) / 6
        if step < shortest_step:
            step = shortest_step
        elif step > longest_step:
            step = longest_step
        at = age + gap + step / 2
        if is_logarithmic:
            at = max(at, 1.0)
            z, unit = (math.log(at) - mean) / scale, scale * at
        else:
            z, unit = (at - mean) / scale, scale
        arrived = 1 / (1 + math.exp(-z)) if z > -30 else 0.0
        regular = (1 - irregular_share) * (1 - arrived)
        irregular = irregular_share * (length / (length + at)) ** IRREGULAR_POWER
        rate = (regular * arrived / unit + irregular * IRREGULAR_POWER / (length + at)) / (regular + irregular)
        density = math.sqrt(rate / (2 * price))
        if total + density * step >= 1:
            return gap + (1 - total) / density
        total += density * step
        gap += step
    return longest


def is_gone(failures: int, since: float | None, now: float) -> bool:
    """Return whether a job is gone. The last `failures` polls did not find it, the first of them at `since`."""
    return failures >= GONE_FAILURES and since is not None and now - since >= GONE_AFTER


def back_off(gap: float, failures: int, cap: float, job: int) -> float:
    """Return the poll gap after `failures` failed polls in a row: `gap`, doubled for each of them, up to `cap`.

    A hash of the job and the count shortens it by up to a fifth, so that jobs that failed together are not polled
    together again.
    """
    doubled = min(gap * 2.0 ** min(failures, 30), max(cap, gap))
    return doubled * (0.8 + 0.2 * _share(job, failures))
