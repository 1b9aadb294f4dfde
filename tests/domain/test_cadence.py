"""The cadence polls when an arrival is expected, keeps within its settings, and settles only jobs that have ended."""

import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from checkpointd.domain import cadence
from checkpointd.domain.cadence import (
    ArrivalHistory,
    CadenceSettings,
    Plan,
    back_off,
    is_gone,
    learn,
    plan,
    seems_ended,
)
from checkpointd.domain.job import ENDED_STATUSES, WAITING_STATUSES

examples = hypothesis_settings(max_examples=150, deadline=None)

START = 1_793_491_200.0
NOTHING = ArrivalHistory(None, None, None, None)
SETTINGS = CadenceSettings(15, 300, settle=86400, assume_ended=3 * 86400)


def after(seconds: float) -> float:
    """Return a time so many seconds after the start."""
    return START + seconds


def plan_for(
    history: ArrivalHistory = NOTHING, *, seconds: float = 0, settings: CadenceSettings = SETTINGS, **state: Any
) -> Plan:
    """Return the plan of a running job, `seconds` after it was tracked at the start. `state` replaces its state."""
    usual: dict[str, Any] = {"status": "running", "settling_since": None, "tracked_at": START}
    return plan(history, **{**usual, **state}, now=after(seconds), settings=settings)


def ended_by(
    history: ArrivalHistory = NOTHING, *, seconds: float = 0, settings: CadenceSettings = SETTINGS, **state: Any
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
        now = 0.0
        while len(self.delays) < len(arrivals):
            self.polls += 1
            visible = sum(arrival <= now for arrival in arrivals)
            self.delays += [now - arrival for arrival in arrivals[len(self.delays) : visible]]
            self.history = learn(self.history, range(1, visible + 1), after(now))
            gap = plan_for(self.history, seconds=now, settings=settings).gap
            assert settings.shortest <= gap <= settings.longest
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
histories = st.builds(
    ArrivalHistory,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | moments,
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
)
statuses = st.none() | st.sampled_from([*ENDED_STATUSES, *WAITING_STATUSES, "running", ""]) | st.text()
cadence_settings = st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 1e6)).map(
    lambda pair: SETTINGS._replace(shortest=min(pair), longest=max(pair))
)


@examples
@given(histories, seconds, cadence_settings, statuses, st.none() | moments, moments)
def test_gaps_stay_within_bounds(
    history: ArrivalHistory,
    now: float,
    settings: CadenceSettings,
    status: str | None,
    settling: float | None,
    tracked: float,
) -> None:
    """For any history and time, the gap is between the shortest and the longest one, also if these two are equal."""
    state = {"status": status, "settling_since": settling, "tracked_at": tracked}
    gap = plan_for(history, seconds=now, settings=settings, **state).gap
    assert settings.shortest <= gap <= settings.longest
    for gap in settings:
        only_gap = settings._replace(shortest=gap, longest=gap)
        assert gap == plan_for(history, seconds=now, settings=only_gap, **state).gap


@pytest.mark.parametrize("status", ["validating_files", "queued", "created", "pending", "paused", "pausing", "Queued"])
@pytest.mark.parametrize("days", [0, 400])
def test_waiting_jobs_have_the_longest_gap(status: str, days: float) -> None:
    """A job with a status in which no checkpoint can arrive has the longest gap, also after a recent arrival."""
    busy = ArrivalHistory(7, after(86_400 * days - 60), 60, 1)
    for history in (busy, NOTHING):
        assert Plan(300, settled=False) == plan_for(history, seconds=86_400 * days, status=status)


@pytest.mark.parametrize("status", ["running", "RUNNING", "resuming", "in_progress", "", None])
def test_gaps_of_running_jobs_grow(status: str | None) -> None:
    """A job that runs, or has an unknown status, is polled often at first and then less and less often."""
    gaps = [plan_for(seconds=age, status=status).gap for age in (0, 60, 600, 1200, 86_400)]
    assert [15, 15, 75, 150, 300] == gaps


@pytest.mark.parametrize("status", ["running", "Running", *sorted(WAITING_STATUSES)])
def test_running_jobs_never_end(status: str) -> None:
    """A job that runs or waits by its status never counts as ended."""
    assert not ended_by(seconds=400 * 86_400, status=status)


@pytest.mark.parametrize("status", [None, "training", "succeeded?"])
def test_jobs_of_unknown_status_end_after_days(status: str | None) -> None:
    """A job of unknown status counts as ended after three days without an arrival, a change or a new tracking."""
    news = ArrivalHistory(7, after(86_400), None, None)
    assert [False, True] == [ended_by(news, seconds=86_400 * days + 1, status=status) for days in (3, 4)]
    assert not ended_by(news, seconds=86_400 * 30, status=status, changed_at=after(86_400 * 29))
    assert not ended_by(news, seconds=86_400 * 30, status=status, tracked_at=after(86_400 * 29))


@pytest.mark.parametrize("status", [*sorted(ENDED_STATUSES), "Succeeded"])
def test_an_ended_status_ends_a_job_at_once(status: str) -> None:
    """A job has ended as soon as its status is an ended one."""
    assert ended_by(status=status)


def test_tracked_again() -> None:
    """A job that is tracked again after a long time is polled as often as a new one."""
    old = ArrivalHistory(7, after(0), None, None)
    assert Plan(15, settled=False) == plan_for(old, seconds=86_400 * 30, tracked_at=after(86_400 * 30), status=None)


def test_settling_gaps_grow() -> None:
    """After its end a job is polled often at first, then less and less often, whatever its spacing was."""
    regular = ArrivalHistory(7, START, 600, 10)
    gaps = [plan_for(regular, seconds=s, status="succeeded", settling_since=START).gap for s in (0, 60, 400, 4000)]
    assert [15, 15, 100, 300] == gaps


@pytest.mark.parametrize(("expected", "hours"), [(False, 0), (False, 23.99), (True, 24), (True, 1000)])
@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "paused", None])
def test_settled_after_a_day(expected: bool, hours: float, status: str | None) -> None:
    """A job is settled one day after its end, and not before."""
    assert expected == plan_for(seconds=3600 * hours, settling_since=START, status=status).settled


@examples
@given(histories, seconds, statuses)
def test_never_settled_early(history: ArrivalHistory, now: float, status: str | None) -> None:
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


def test_window_of_the_next_arrival() -> None:
    """Before the window of an arrival the next poll is at its start; polls are frequent in it, and rarer after it."""
    regular = ArrivalHistory(7, START, 600, 80)
    ages = {0: 425, 400: 25, 425: 40, 774: 40, 775: 43.75, 1000: 100, 3000: 600, 86_400: 900}
    assert ages == {age: plan_for(regular, seconds=age, settings=SETTINGS._replace(longest=900)).gap for age in ages}


@pytest.mark.parametrize("spacing", [40, 150, 600, 3600])
def test_regular_arrivals_are_found_at_once(spacing: float) -> None:
    """Checkpoints at equal intervals of any length are found within 20 s, with a shortest gap of 15 s."""
    simulation = Simulation(arrivals(spacing, 0, 40, 0), SETTINGS)
    assert 20 > median(simulation.delays[20:])


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


def test_learning() -> None:
    """The first arrival gives no spacing, the second gives one, later ones a mean. Other polls change nothing."""
    first = learn(NOTHING, [3, 1, 2], after(0))
    assert ArrivalHistory(3, after(0), None, None) == first
    second = learn(first, [3, 4, 1], after(600))
    assert ArrivalHistory(4, after(600), 600, 150) == second
    assert second is learn(second, [4, 3, 2], after(700)) is learn(second, [], after(700))
    third = learn(second, [5], after(1300))
    assert (5, after(1300), 630) == third[:3]
    assert 135 == pytest.approx(third.spread_s)


def test_several_arrivals_share_the_time() -> None:
    """Checkpoints that arrive together share the time since the last arrival; repeated items count once."""
    assert 200 == learn(ArrivalHistory(3, START, None, None), [4, 5, 6, 6, 4], after(600)).spacing_s


def test_a_clock_that_went_back() -> None:
    """An arrival before the last one, by the clock, is a spacing of zero, and the gap is the shortest."""
    history = learn(ArrivalHistory(3, after(600), None, None), [4], after(0))
    assert ArrivalHistory(4, after(0), 0, 0) == history
    assert 15 == plan_for(history).gap


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
