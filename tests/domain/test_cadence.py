"""The cadence polls when an arrival is expected, keeps within its settings, and settles only jobs that have ended."""

import math
import random
from collections import Counter
from statistics import median
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from checkpointd.domain import cadence
from checkpointd.domain.arrivals import Arrivals, Prior, learn
from checkpointd.domain.cadence import CadenceSettings, Plan, SourceCadence, back_off, is_gone, plan, seems_ended
from checkpointd.domain.job import ENDED_STATUSES, WAITING_STATUSES
from support.examples import tries

examples = hypothesis_settings(max_examples=tries(150), deadline=None)

START = 1_793_491_200.0
NOTHING = Arrivals()
SETTINGS = CadenceSettings(15, 300, settle=86400, assume_ended=3 * 86400)
SOURCE = SETTINGS.unknown_source


def after(seconds: float) -> float:
    """Return a time so many seconds after the start."""
    return START + seconds


def plan_for(
    history: Arrivals = NOTHING, *, seconds: float = 0, settings: CadenceSettings = SETTINGS, **state: Any
) -> Plan:
    """Return the plan of a running job, `seconds` after it was tracked at the start. `state` replaces its state."""
    usual: dict[str, Any] = {
        "status": "running", "settling_since": None, "tracked_at": START, "job": 1, "source": SOURCE
    }  # fmt: skip
    return plan(history, **{**usual, **state}, now=after(seconds), settings=settings)


def ended_by(
    history: Arrivals = NOTHING, *, seconds: float = 0, settings: CadenceSettings = SETTINGS, **state: Any
) -> bool:
    """Return whether a running job, tracked at the start, seems to have ended after `seconds`. `state` as above."""
    usual: dict[str, Any] = {"status": "running", "tracked_at": START, "changed_at": None}
    return seems_ended(history, **{**usual, **state}, now=after(seconds), settings=settings)


class Simulation:
    """A running job that is polled as planned: the delay of each arrival, and the number of polls."""

    def __init__(self, arrivals: list[float], settings: CadenceSettings) -> None:
        self.delays: list[float] = []
        self.polls = 0
        self.history = NOTHING
        now, previous = 0.0, None
        while len(self.delays) < len(arrivals):
            self.polls += 1
            visible = sum(arrival <= now for arrival in arrivals)
            self.delays += [now - arrival for arrival in arrivals[len(self.delays) : visible]]
            listed = [(step, None) for step in range(1, visible + 1)]
            self.history = learn(
                self.history, listed, previous=previous, now=after(now), tracked_at=START, prior=SOURCE.prior
            )
            gap = plan_for(self.history, seconds=now, settings=settings).gap
            assert settings.shortest <= gap <= settings.longest
            previous = after(now)
            now += gap


def arrivals(spacing: float, deviation: float, count: int, seed: int) -> list[float]:
    """Return the times at which checkpoints are listed: `spacing` seconds apart, up to a relative deviation."""
    rng = random.Random(seed)
    times = [0.0]
    for _ in range(count):
        times.append(times[-1] + spacing * rng.uniform(1 - deviation, 1 + deviation))
    return times[1:]


seconds = st.floats(-1e9, 1e9)
moments = seconds.map(after)
spans = st.floats(0, 1e9)
histories = st.builds(
    Arrivals,
    newest_step=st.none() | st.integers(-(2**63), 2**63 - 1),
    newest_seen_at=st.none() | moments,
    arrivals=st.integers(0, 10**6),
    arrival_error_s=spans,
    first_arrival_s=st.none() | st.floats(1, 1e9),
    spacing_s=st.none() | st.floats(1, 1e9),
    spread_s=st.none() | spans,
    publication_delay_s=spans,
)
sources = st.builds(
    SourceCadence,
    st.builds(
        Prior,
        *[
            st.floats(*bounds)
            for bounds in ((0, 20), (0, 9), (0, 20), (0.001, 9), (-20, 20), (0, 9), (0, 9), (-20, 20), (0, 9))
        ],
    ),
    st.floats(1, cadence.HIGHEST_PRICE),
)
statuses = st.none() | st.sampled_from([*ENDED_STATUSES, *WAITING_STATUSES, "running", ""]) | st.text()
cadence_settings = st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 1e6)).map(
    lambda pair: SETTINGS._replace(shortest=min(pair), longest=max(pair))
)


@examples
@given(histories, sources, seconds, cadence_settings, statuses, st.none() | moments, moments, spans, st.none() | spans)
def test_gaps_stay_within_bounds(
    history: Arrivals,
    source: SourceCadence,
    now: float,
    settings: CadenceSettings,
    status: str | None,
    settling: float | None,
    tracked: float,
    waited: float,
    estimate: float | None,
) -> None:
    """For any history and time, the gap is between the shortest and the longest one, also if these two are equal.

    The longest one is up to four times as long if the rate limit permits too few requests.
    """
    state: dict[str, Any] = {"status": status, "settling_since": settling, "tracked_at": tracked, "source": source}
    state |= {"waited": waited, "epoch_estimate": estimate}
    gap = plan_for(history, seconds=now, settings=settings, **state).gap
    assert settings.shortest <= gap <= 4.001 * settings.longest
    state["source"] = source._replace(price=1.0)
    gap = plan_for(history, seconds=now, settings=settings, **state).gap
    assert settings.shortest <= gap <= settings.longest
    for gap in settings:
        only_gap = settings._replace(shortest=gap, longest=gap)
        assert gap == plan_for(history, seconds=now, settings=only_gap, **state).gap


@pytest.mark.parametrize("status", ["validating_files", "queued", "created", "pending", "paused", "pausing", "Queued"])
@pytest.mark.parametrize("days", [0, 400])
def test_waiting_jobs_have_the_longest_gap(status: str, days: float) -> None:
    """A job in whose status no checkpoint can arrive has about the longest gap, also after a recent arrival."""
    busy = Arrivals(7, after(86_400 * days - 60), 3, spacing_s=60, spread_s=1)
    for history in (busy, NOTHING):
        plans = [plan_for(history, seconds=86_400 * days, status=status, job=job) for job in range(20)]
        assert all(270 <= gap <= 300 and not settled for gap, settled in plans)
        assert len(set(plans)) > 5


@pytest.mark.parametrize("status", ["running", "RUNNING", "resuming", "in_progress", "", None])
def test_gaps_of_new_jobs(status: str | None) -> None:
    """A job that runs, or has an unknown status, is polled most often when its first checkpoint is expected."""
    gaps = [plan_for(seconds=age, status=status).gap for age in (0, 1000, 86_400)]
    assert gaps[0] > gaps[1] < gaps[2] / 1.5
    assert gaps[2] > 200


@pytest.mark.parametrize("status", ["running", "Running", *sorted(WAITING_STATUSES)])
def test_running_jobs_never_end(status: str) -> None:
    """A job that runs or waits by its status never counts as ended."""
    assert not ended_by(seconds=400 * 86_400, status=status)


@pytest.mark.parametrize("status", [None, "training", "succeeded?"])
def test_jobs_of_unknown_status_end_after_days(status: str | None) -> None:
    """A job of unknown status counts as ended after three days without an arrival, a change or a new tracking."""
    news = Arrivals(7, after(86_400), 1)
    assert [False, True] == [ended_by(news, seconds=86_400 * days + 1, status=status) for days in (3, 4)]
    assert not ended_by(news, seconds=86_400 * 30, status=status, changed_at=after(86_400 * 29))
    assert not ended_by(news, seconds=86_400 * 30, status=status, tracked_at=after(86_400 * 29))


@pytest.mark.parametrize("status", [*sorted(ENDED_STATUSES), "Succeeded"])
def test_an_ended_status_ends_a_job_at_once(status: str) -> None:
    """A job has ended as soon as its status is an ended one."""
    assert ended_by(status=status)


def test_tracked_again() -> None:
    """A job that is tracked again is polled like a job that has long been overdue: what is known of it is old."""
    old = Arrivals(7, START, 9, spacing_s=600, spread_s=10)
    assert 200 < plan_for(old, seconds=86_400 * 30, tracked_at=after(86_400 * 30)).gap


@pytest.mark.parametrize("known", [NOTHING, Arrivals(7, START, 9, spacing_s=600, spread_s=10)])
def test_a_resumed_job_is_not_overdue(known: Arrivals) -> None:
    """After a pause of an hour the gaps go on as they were before it, except for what the hash changes."""
    gaps = [plan_for(known, seconds=s + w, waited=w).gap for s in (60, 500, 590, 900) for w in (0, 3600)]
    assert gaps[::2] == pytest.approx(gaps[1::2], rel=0.25)


def test_settling_gaps_grow() -> None:
    """After its end a job is polled often at first, then less and less often, whatever its spacing was."""
    regular = Arrivals(7, START, 9, spacing_s=600, spread_s=10)
    gaps = [plan_for(regular, seconds=s, status="succeeded", settling_since=START).gap for s in (0, 60, 400, 4000)]
    assert [pytest.approx(gap, rel=0.1) for gap in (15, 15, 100, 300)] == gaps


@pytest.mark.parametrize(("expected", "hours"), [(False, 0), (False, 23.99), (True, 24), (True, 1000)])
@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "paused", None])
def test_settled_after_a_day(expected: bool, hours: float, status: str | None) -> None:
    """A job is settled one day after its end, and not before."""
    assert expected == plan_for(seconds=3600 * hours, settling_since=START, status=status).settled


@examples
@given(histories, seconds, statuses)
def test_never_settled_early(history: Arrivals, now: float, status: str | None) -> None:
    """A job that has not ended, or not for a day, is not settled, for any history."""
    assert not plan_for(history, seconds=now, status=status).settled
    assert not plan_for(history, seconds=now, status=status, settling_since=after(now - 86_399)).settled


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("longest", [300, 1200])
def test_polls_follow_the_spacing(seed: int, longest: float) -> None:
    """Of checkpoints every 600 s ± 5 %, half are found within 20 s, all within 120 s, by fewer than 8 polls each."""
    simulation = Simulation(arrivals(600, 0.05, 60, seed), SETTINGS._replace(longest=longest))
    assert 20 > median(simulation.delays[3:])
    assert 120 > max(simulation.delays[3:])
    assert 8 * 60 > simulation.polls
    assert simulation.history.spacing_s == pytest.approx(600, rel=0.05)


def test_gaps_around_the_next_arrival() -> None:
    """Polls are rare before an arrival is expected, frequent around that time, and rare again when it is overdue."""
    regular = Arrivals(7, START, 9, spacing_s=600, spread_s=60)
    gaps = [plan_for(regular, seconds=age).gap for age in (0, 300, 600, 3000, 86_400)]
    assert gaps[0] > gaps[1] > 4 * gaps[2]
    assert 4 * gaps[2] < gaps[3] < gaps[4]
    assert 25 > gaps[2]


@examples
@given(histories, sources, seconds, st.floats(1, cadence.HIGHEST_PRICE))
def test_a_higher_price_never_means_more_polls(
    history: Arrivals, source: SourceCadence, now: float, factor: float
) -> None:
    """If requests are dearer, no gap is shorter."""
    gaps = [plan_for(history, seconds=now, source=source._replace(price=price)).gap for price in (1.0, factor)]
    assert gaps[0] <= gaps[1] + 1e-6


odd = st.sampled_from([0.0, 1e-300, 5e-324, 1e-15, 1.0, 600.0, 1e18, 1e80, 1e300])
damaged = st.sampled_from([1.0, -1.0]).flatmap(lambda sign: odd.map(lambda n: sign * n)) | st.floats()


@hypothesis_settings(max_examples=tries(1000), deadline=None)
@given(
    st.builds(
        Arrivals,
        newest_step=st.just(7),
        newest_seen_at=damaged | st.just(after(-600)),
        arrivals=st.integers(0, 9),
        arrival_error_s=damaged | st.just(5.0),
        first_arrival_s=st.none() | damaged,
        spacing_s=st.none() | damaged | st.just(600.0),
        spread_s=st.none() | damaged | st.just(30.0),
        publication_delay_s=damaged,
    ),
    damaged | st.just(START),
    damaged | st.just(0.0),
    st.none() | damaged,
)
@example(Arrivals(7, after(-600), 5, math.nan, 600, 600, 30), START, 0, None)
@example(Arrivals(7, after(-600), 5, 5, 600, 600, math.nan), START, 0, None)
@example(Arrivals(7, after(-600), 5, 5, 600, 1e-300, 30), START, 0, None)
@example(Arrivals(7, after(-600), 5, 5, 600, 600, 1e300), START, 0, None)
@example(Arrivals(7, after(-600), 5, 5, 0.0, 600, 30), START, 0, None)
def test_damaged_numbers(history: Arrivals, tracked: float, waited: float, estimate: float | None) -> None:
    """For any numbers in a row, the gap is permitted. If they cannot be used, it is about the longest one."""
    gap = plan_for(history, tracked_at=tracked, waited=waited, epoch_estimate=estimate).gap
    assert 15 <= gap <= 300
    if not math.isfinite(sum(n or 0 for n in (*history, tracked, waited, estimate))):
        assert gap >= 270


@pytest.mark.parametrize("price", [1, cadence.HIGHEST_PRICE])
def test_two_polls_for_each_spacing(price: float) -> None:
    """The gap is at most half of the expected spacing, also if requests are dear, or MIN and a tenth more."""
    source = SOURCE._replace(price=price)
    for spacing in (20, 100, 400):
        known = Arrivals(7, START, 9, spacing_s=spacing, spread_s=1)
        assert max(16.5, spacing / 2) >= plan_for(known, source=source).gap


@pytest.mark.parametrize("state", [{"status": "queued"}, {"settling_since": after(-86_400)}])
def test_longest_gap_with_a_rate_limit(state: dict[str, Any]) -> None:
    """If requests are as dear as they can be, the longest gap is four times as long."""
    dear = SOURCE._replace(price=cadence.HIGHEST_PRICE)
    assert 300 >= plan_for(**state).gap > 250
    assert 1200 >= plan_for(**state, source=dear).gap > 1000


def test_jobs_that_start_together() -> None:
    """The polls of jobs that started together drift apart: after some polls they are spread over the gap."""
    times = [0.0] * 100
    for _ in range(8):
        times = [at + plan_for(seconds=at, job=job).gap for job, at in enumerate(times)]
    assert max(times) - min(times) > plan_for(seconds=times[0]).gap / 2


@pytest.mark.parametrize(
    ("state", "spacing"), [({"status": "queued"}, 900), ({}, 7200), ({}, 60), ({}, 31), ({}, 30), ({}, 20), ({}, 1)]
)
def test_limits_do_not_bring_jobs_together(state: dict[str, Any], spacing: float) -> None:
    """Of 1,000 jobs that start together, and have the shortest or the longest gap, few are polled at the same time."""
    known, times = Arrivals(7, START, 9, spacing_s=spacing, spread_s=spacing / 50), [0.0] * 1000
    for _ in range(3):
        times = [at + plan_for(known, seconds=at, job=job, **state).gap for job, at in enumerate(times)]
        assert 120 > max(Counter(round(at, 1) for at in times).values())


@pytest.mark.parametrize("spacing", [40, 150, 600, 3600])
def test_regular_arrivals_are_found_at_once(spacing: float) -> None:
    """Checkpoints at equal intervals are found within 20 s, with a shortest gap of 15 s, or 1 % of a long interval."""
    simulation = Simulation(arrivals(spacing, 0, 40, 0), SETTINGS)
    assert max(20, spacing / 100) > median(simulation.delays[20:])


def test_a_new_spacing_is_learnt() -> None:
    """If checkpoints arrive twice or half as often as before, the polls follow within 20 arrivals."""
    for second in (300, 1200):
        first = arrivals(600, 0.02, 20, 1)
        simulation = Simulation([*first, *(first[-1] + t for t in arrivals(second, 0.02, 40, 2))], SETTINGS)
        assert 30 > median(simulation.delays[40:])
        assert simulation.history.spacing_s == pytest.approx(second, rel=0.1)


@examples
@given(st.lists(st.floats(0, 5000), min_size=1, max_size=12), st.floats(1, 60), st.floats(60, 600))
def test_any_arrivals_are_found(gaps: list[float], shortest: float, longest: float) -> None:
    """Every checkpoint is found within the longest gap, for any times of arrival."""
    times = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    simulation = Simulation(times, SETTINGS._replace(shortest=shortest, longest=longest))
    assert longest >= max(simulation.delays)
    assert sum(gaps) / shortest + 2 >= simulation.polls


@examples
@given(st.floats(0.01, 3600), st.integers(1, 10**9), st.floats(1, 3600), st.integers(1, 2**63 - 1))
def test_back_off(gap: float, failures: int, cap: float, job: int) -> None:
    """Each failure doubles the gap up to the cap, less up to a fifth. The same failure always has the same gap."""
    doubled = min(gap * 2.0 ** min(failures, 100), max(cap, gap))
    delay = back_off(gap, failures, cap, job)
    assert 0.8 * doubled <= delay <= doubled
    assert delay == back_off(gap, failures, cap, job)


def test_back_off_lasts_minutes() -> None:
    """A job that fails again and again is polled every four to five minutes, so that polls soon resume."""
    delays = [back_off(15, failures, cadence.FAILURE_CAP, 1) for failures in range(1, 50)]
    assert 24 <= delays[0] <= 30
    assert all(240 <= delay <= 300 for delay in delays[4:])


def test_delays_of_jobs_that_fail_together_differ() -> None:
    """The delays of jobs that fail together are spread over a fifth of the cap."""
    delays = [back_off(15, 10, cadence.FAILURE_CAP, job) for job in range(1000)]
    assert len(set(delays)) == len(delays)
    assert max(delays) - min(delays) > 0.19 * 300
    assert 270 == pytest.approx(sum(delays) / len(delays), rel=0.02)


@pytest.mark.parametrize(
    ("expected", "failures", "seconds"),
    [(False, 4, 3600), (False, 5, 3599), (True, 5, 3600), (True, 99, 10**6), (False, 99, -1)],
)
def test_gone(expected: bool, failures: int, seconds: float) -> None:
    """A job is gone after five polls in a row that did not find it, over at least an hour."""
    assert expected == is_gone(failures, START, after(seconds))


def test_not_gone_without_a_start() -> None:
    """A job without a time of its first failure is not gone, for any number of failures."""
    assert not is_gone(99, None, START)


def test_settings_of_the_end() -> None:
    """The settings determine when a job settles, and when one of unknown status counts as ended."""
    brief = SETTINGS._replace(settle=60, assume_ended=600)
    ended = {"settling_since": START, "status": "succeeded"}
    assert [False, True] == [plan_for(seconds=s, settings=brief, **ended).settled for s in (59, 60)]
    assert [False, True] == [ended_by(seconds=s, status=None, settings=brief) for s in (600, 601)]
