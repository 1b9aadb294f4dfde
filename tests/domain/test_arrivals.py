"""What is known of the arrivals of a job's checkpoints follows from its listings and from other jobs of the source."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from checkpointd.domain.arrivals import UNIFORM, Arrivals, Learnt, Prior, learn
from checkpointd.domain.cadence import CadenceSettings
from support.examples import tries

examples = hypothesis_settings(max_examples=tries(150), deadline=None)

START = 1_793_491_200.0
UNKNOWN = CadenceSettings(15, 300, 86400, 86400).unknown_source.prior
KNOWN = Prior(math.log(600), 0.5, math.log(600), 0.5, 0.0, 0.1, noise=0.05, estimate_mean=0.0, estimate_spread=0.1)


@dataclass
class Job:
    """A job that is polled: what is known of it after each poll. Times are in seconds since it was tracked."""

    prior: Prior = KNOWN
    known: Arrivals = field(default_factory=Arrivals)
    previous: float | None = None

    def poll(self, at: float, *listed: int | tuple[int, float], waited: float = 0) -> Arrivals:
        """Poll a list of steps, some with their times of creation."""
        items = [(item, None) if isinstance(item, int) else (item[0], int(START + item[1])) for item in listed]
        previous = None if self.previous is None else START + self.previous
        self.known = learn(
            self.known, items, previous=previous, now=START + at, tracked_at=START, prior=self.prior, waited=waited
        )
        self.previous = at
        return self.known


def test_first_arrival() -> None:
    """The first arrival was between two polls. The spacing follows from its time, as with the other jobs."""
    job = Job()
    assert Arrivals() == job.poll(0)
    job.poll(570)
    known = job.poll(630, 10)
    assert (10, START + 600, 1, 600) == (
        known.newest_step, known.newest_seen_at, known.arrivals, known.first_arrival_s
    )  # fmt: skip
    assert pytest.approx(60 / math.sqrt(12)) == known.arrival_error_s
    assert pytest.approx(600) == known.spacing_s
    assert pytest.approx(30) == known.spread_s


def test_other_polls_change_nothing() -> None:
    """A poll without a larger step changes nothing."""
    job = Job()
    job.poll(0)
    known = job.poll(600, 10, 20)
    assert known is job.poll(700, 20, 10) is job.poll(800)


def test_spacing_of_a_regular_job() -> None:
    """After some arrivals the spacing is that of the job, whatever was expected, and its noise is small."""
    job = Job(UNKNOWN)
    job.poll(0)
    for n in range(1, 12):
        job.poll(400 * n - 10, *range(1, n))
        known = job.poll(400 * n + 10, *range(1, n + 1))
    assert pytest.approx(400, rel=0.02) == known.spacing_s
    assert known.spread_s is not None
    assert known.spread_s < 40


def test_created_at_tells_the_time() -> None:
    """If checkpoints are listed at once, `created_at` is the time of arrival, however rare the polls are."""
    job = Job()
    job.poll(0)
    job.poll(400, (1, 390))
    known = job.poll(900, (1, 390), (2, 790))
    assert START + 790 == known.newest_seen_at
    assert 0 == known.publication_delay_s


def test_publication_delay() -> None:
    """If checkpoints are listed with a regular delay, the next one is expected after the same delay."""
    job = Job()
    job.poll(0)
    for n in range(1, 6):
        job.poll(500 * n + 280)
        known = job.poll(500 * n + 320, *[(k, 500.0 * k) for k in range(1, n + 1)])
    assert pytest.approx(300, abs=20) == known.publication_delay_s
    assert pytest.approx(START + 5 * 500 + 300, abs=20) == known.newest_seen_at
    assert pytest.approx(500, rel=0.02) == known.spacing_s
    assert known.first_arrival_s == pytest.approx(500, abs=20)


@pytest.mark.parametrize("skew", [-900, 900])
def test_wrong_clock_of_the_provider(skew: float) -> None:
    """A clock of the provider that is wrong by a quarter of an hour does not harm the spacing."""
    job = Job()
    job.poll(0)
    for n in range(1, 9):
        job.poll(500 * n - 20)
        known = job.poll(500 * n + 20, *[(k, 500.0 * k + skew) for k in range(1, n + 1)])
    assert pytest.approx(500, rel=0.05) == known.spacing_s


def test_backlog_of_a_job_that_was_tracked_late() -> None:
    """The first listing of a job that has run for long tells the spacing, by `created_at`."""
    known = Job().poll(0, *[(n, -100.0 * (5 - n)) for n in range(1, 6)])
    assert (5, START, 5, None) == (known.newest_step, known.newest_seen_at, known.arrivals, known.first_arrival_s)
    assert pytest.approx(100, rel=0.1) == known.spacing_s
    unknown = Job().poll(0, 1, 2, 3)
    assert (3, START, 1) == unknown[:3]
    assert pytest.approx(600) == unknown.spacing_s
    assert pytest.approx(600 / math.sqrt(3)) == unknown.arrival_error_s


@pytest.mark.parametrize("created", [-5000.0, 5000.0])
@pytest.mark.parametrize("count", [3, 20])
def test_backlog_with_the_same_times(created: float, count: int) -> None:
    """Checkpoints of a first listing that were created at the same time, or in the future, are one arrival."""
    known = Job().poll(0, *[(n, created + max(created, 0) * n) for n in range(count)])
    assert (1, START + min(created, 0)) == (known.arrivals, known.newest_seen_at)
    assert pytest.approx(600) == known.spacing_s


def test_the_same_times_after_an_outage() -> None:
    """Checkpoints that were created at the same time during an outage are one arrival."""
    job = Job()
    job.poll(0)
    job.poll(590)
    job.poll(610, (1, 600))
    known = job.poll(1810, (1, 600), *[(n, 1200.0) for n in range(2, 8)], *[(n, 1800.0) for n in range(8, 12)])
    assert 3 == known.arrivals
    assert pytest.approx(600, rel=0.02) == known.spacing_s


def test_arrivals_during_an_outage() -> None:
    """Several arrivals between two polls that are far apart share the time, or `created_at` tells the times.

    The last one was in the last part of this time.
    """
    for listed in ([2, 3, 4], [(n, 600.0 * n) for n in (2, 3, 4)]):
        job = Job()
        job.poll(0)
        job.poll(590)
        job.poll(610, 1)
        known = job.poll(2410, *listed)
        assert pytest.approx(600, rel=0.05) == known.spacing_s
        assert known.newest_seen_at is not None
        assert pytest.approx(START + 2400, abs=300) == known.newest_seen_at
        assert 600 * UNIFORM >= known.arrival_error_s


def test_arrivals_of_an_incomplete_listing() -> None:
    """After a listing that was read in part, the next arrival is not before those that were in it."""
    job = Job()
    job.poll(0)
    job.poll(540)
    known = job.poll(600, 1)
    job.previous = 540  # this listing was incomplete
    assert known.newest_seen_at is not None
    later = job.poll(1200, 1, 2).newest_seen_at
    assert later is not None
    assert later >= (known.newest_seen_at + START + 1200) / 2


def test_checkpoints_at_the_same_time() -> None:
    """Checkpoints that arrive between two polls that are near to each other are one arrival."""
    job = Job()
    job.poll(0)
    job.poll(590)
    job.poll(610, 1, 2)
    job.poll(1190)
    known = job.poll(1210, 1, 2, 3, 4)
    assert 2 == known.arrivals
    assert pytest.approx(600, rel=0.05) == known.spacing_s


def test_tracked_again() -> None:
    """What arrived while a job was not tracked does not change its spacing."""
    job = Job(known=Arrivals(5, START - 1e6, 5, 10, 600, 600, 30), previous=-9e5)
    known = job.poll(0, 9)
    assert (9, START, 600, 30) == (known.newest_step, known.newest_seen_at, known.spacing_s, known.spread_s)


def test_a_long_pause() -> None:
    """After a pause of a week, which no status told, some regular arrivals tell the spacing again."""
    job = Job()
    for n in range(8):
        job.poll(600 * n, n)
    for n in range(8, 24):
        job.poll(600_000 + 600 * n - 60, n - 1)
        job.poll(600_000 + 600 * n, n)
    assert pytest.approx(600, rel=0.4) == job.known.spacing_s


def test_time_in_which_a_job_waits_does_not_count() -> None:
    """A job that is queued and then paused for hours has the time to the first arrival, and the spacing, without."""
    job = Job()
    job.poll(0)
    job.poll(7790)
    known = job.poll(7810, 1, waited=7200)
    assert (600, START + 7800) == (known.first_arrival_s, known.newest_seen_at)
    assert pytest.approx(600, rel=0.01) == known.spacing_s
    job.poll(11_990)
    known = job.poll(12_010, 1, 2, waited=3600)
    assert START + 12_000 == known.newest_seen_at
    assert pytest.approx(600, rel=0.01) == known.spacing_s
    assert known.spread_s is not None
    assert known.spread_s < 40


@pytest.mark.parametrize("created", [0, -(2**62), 1000])
def test_an_odd_created_at(created: int) -> None:
    """A time of creation that cannot be one teaches no delay, and the spacing is right."""
    job = Job()
    for n in range(12):
        job.poll(500 * n, *[(k, created - START) for k in range(n)])
    assert 0 == job.known.publication_delay_s
    assert pytest.approx(500, rel=0.05) == job.known.spacing_s


@pytest.mark.parametrize("spacing", [None, 0.0])
def test_a_row_of_an_older_version(spacing: float | None) -> None:
    """A job whose arrival is known without a spacing is like one whose first checkpoint arrives now."""
    job = Job(known=Arrivals(1, START + 100, 1, spacing_s=spacing, spread_s=spacing), previous=590)
    known = job.poll(610, 1, 2)
    assert pytest.approx(600) == known.spacing_s


damaged = st.sampled_from([0.0, 1e-300, 1.0, -600.0, 600.0, 1e18, 1e80, 1e300, math.inf]) | st.floats()
damaged_rows = st.builds(
    Arrivals,
    newest_step=st.just(7),
    newest_seen_at=st.none() | st.just(START) | damaged,
    arrivals=st.integers(0, 9),
    arrival_error_s=damaged,
    first_arrival_s=st.none() | damaged,
    spacing_s=st.none() | damaged,
    spread_s=st.none() | damaged,
    publication_delay_s=damaged,
)


@examples
@given(damaged_rows, damaged)
@example(Arrivals(7, START, 5, 5, 600, 600, 1e300), 0.0)
@example(Arrivals(7, START, 5, 5, 600, math.nan, 30), 0.0)
def test_a_damaged_row(known: Arrivals, waited: float) -> None:
    """For any numbers in a row, the next arrival is known, and every number is finite."""
    listed = [(8, int(START + 590)), (9, None)]
    known = learn(
        known, listed, previous=START + 580, now=START + 600, tracked_at=START, prior=KNOWN, waited=waited
    )  # fmt: skip
    assert 9 == known.newest_step
    assert all(math.isfinite(n) for n in known if n is not None)


moments = st.none() | st.floats(-1e9, 1e9)


@examples
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6),
            st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.integers(0, 2**62)), max_size=5),
        ),
        max_size=8,
    ),
    st.floats(-1e6, 1e6),
)
def test_any_listings(polls: list[tuple[float, list[tuple[int, int | None]]]], tracked: float) -> None:
    """For any listings at any times, as after steps of the clock, every number is finite and none is negative."""
    known, previous = Arrivals(), None
    for at, listed in polls:
        now = START + at
        known = learn(known, listed, previous=previous, now=now, tracked_at=START + tracked, prior=UNKNOWN)
        previous = now
        numbers = (known.arrival_error_s, known.spacing_s, known.spread_s, known.publication_delay_s)
        assert all(math.isfinite(n) and n >= 0 for n in numbers if n is not None)


def test_prior_of_a_new_source() -> None:
    """Without an ended job the defaults hold. After a hundred jobs that agree, a new one is expected to be alike."""
    nothing = Learnt(0, None, None)
    assert pytest.approx(UNKNOWN) == UNKNOWN.after(nothing, nothing, nothing, nothing, nothing)
    many = UNKNOWN.after(
        first=Learnt(100, math.log(500), 0.1),
        spacing=Learnt(100, math.log(300), 0.1),
        ratio=Learnt(100, math.log(5 / 3), 0.05),
        noise=Learnt(100, 0.02, 0.0),
        estimate=Learnt(100, math.log(1.1), 0.05),
    )
    assert pytest.approx(500, rel=0.05) == math.exp(many.first_mean)
    assert pytest.approx(300, rel=0.05) == many.spacing(None).seconds
    assert pytest.approx(300, rel=0.1) == many.spacing(500).seconds
    assert many.spacing(500).spread < many.spacing(None).spread < 0.4
    assert many.noise < 0.05


def test_estimate_of_the_provider() -> None:
    """The first arrival is expected when the provider estimates it, the more so the better its estimates were."""
    assert (KNOWN.first_mean, KNOWN.first_spread) == KNOWN.first(None)
    mean, spread = KNOWN._replace(estimate_mean=math.log(1.1), estimate_spread=0.02).first(1000)
    assert pytest.approx(1100, rel=0.01) == math.exp(mean)
    assert spread <= 0.02
    mean, spread = KNOWN._replace(estimate_spread=3.0).first(1_000_000)
    assert pytest.approx(600, rel=0.3) == math.exp(mean)
    assert pytest.approx(0.5, rel=0.05) == spread
