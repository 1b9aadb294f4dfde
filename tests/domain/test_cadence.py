"""The cadence aims polls at what is expected, keeps within its bounds, and stops only when nothing can come."""

import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
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

examples = settings(max_examples=150, deadline=None)

START = 1_793_491_200.0
NOTHING = ArrivalHistory(None, None, None, None)
BOUNDS = CadenceSettings(15, 300, settle=86400, assume_ended=3 * 86400)


def after(seconds: float) -> float:
    """Return a time so many seconds after the start."""
    return START + seconds


def plan_for(
    memory: ArrivalHistory = NOTHING, *, seconds: float = 0, bounds: CadenceSettings = BOUNDS, **state: Any
) -> Plan:
    """Plan for a job tracked at the start, `seconds` after that: running, unless `state` says otherwise."""
    usual: dict[str, Any] = {
        "status": "running", "settling_since": None, "tracked_at": START,
    }  # fmt: skip
    return plan(memory, **{**usual, **state}, now=after(seconds), settings=bounds)


def ended_by(
    memory: ArrivalHistory = NOTHING, *, seconds: float = 0, bounds: CadenceSettings = BOUNDS, **state: Any
) -> bool:
    """Say whether a job tracked at the start seems to have ended `seconds` after that."""
    usual: dict[str, Any] = {"status": "running", "tracked_at": START, "changed_at": None}
    return seems_ended(memory, **{**usual, **state}, now=after(seconds), settings=bounds)


class Watch:
    """A running job watched on a clock that only polls move: what was seen when, by how many polls."""

    def __init__(self, arrivals: list[float], bounds: CadenceSettings) -> None:
        self.delays: list[float] = []
        self.polls = 0
        self.memory = NOTHING
        now = 0.0
        while len(self.delays) < len(arrivals):
            self.polls += 1
            visible = sum(arrival <= now for arrival in arrivals)
            self.delays += [now - arrival for arrival in arrivals[len(self.delays) : visible]]
            self.memory = learn(self.memory, range(1, visible + 1), after(now))
            gap = plan_for(self.memory, seconds=now, bounds=bounds).gap
            assert bounds.shortest <= gap <= bounds.longest
            now += gap


def arrivals(spacing: float, deviation: float, count: int, seed: int) -> list[float]:
    """Return the times at which checkpoints become visible: regular within a share of their distance."""
    chance = random.Random(seed)
    times = [0.0]
    for _ in range(count):
        times.append(times[-1] + spacing * chance.uniform(1 - deviation, 1 + deviation))
    return times[1:]


seconds = st.floats(-1e9, 1e9)
moments = seconds.map(after)
memories = st.builds(
    ArrivalHistory,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | moments,
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
)
statuses = st.none() | st.sampled_from([*ENDED_STATUSES, *WAITING_STATUSES, "running", ""]) | st.text()
bounds = st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 1e6)).map(
    lambda pair: BOUNDS._replace(shortest=min(pair), longest=max(pair))
)


@examples
@given(memories, seconds, bounds, statuses, st.none() | moments, moments)
def test_gaps_stay_within_bounds(
    memory: ArrivalHistory,
    now: float,
    bounds: CadenceSettings,
    status: str | None,
    settling: float | None,
    tracked: float,
) -> None:
    """Whatever is remembered, and wherever the clock jumps, gaps are within the bounds; equal ones fix them."""
    state = {"status": status, "settling_since": settling, "tracked_at": tracked}
    gap = plan_for(memory, seconds=now, bounds=bounds, **state).gap
    assert bounds.shortest <= gap <= bounds.longest
    for fixed in bounds:
        assert (
            fixed == plan_for(memory, seconds=now, bounds=BOUNDS._replace(shortest=fixed, longest=fixed), **state).gap
        )


@pytest.mark.parametrize("status", ["validating_files", "queued", "created", "pending", "paused", "pausing", "Queued"])
@pytest.mark.parametrize("days", [0, 400])
def test_waiting_takes_the_longest(status: str, days: float) -> None:
    """A job in whose status no checkpoint can come is polled at the longest gap, whatever was learnt."""
    busy = ArrivalHistory(7, after(86_400 * days - 60), 60, 1)
    for memory in (busy, NOTHING):
        assert Plan(300, settled=False) == plan_for(memory, seconds=86_400 * days, status=status)


@pytest.mark.parametrize("status", ["running", "RUNNING", "resuming", "in_progress", "", None])
def test_running_grows_with_the_wait(status: str | None) -> None:
    """A job that runs, or whose status says nothing, is polled often at first and then ever more rarely."""
    gaps = [plan_for(seconds=age, status=status).gap for age in (0, 60, 600, 1200, 86_400)]
    assert [15, 15, 75, 150, 300] == gaps


@pytest.mark.parametrize("status", ["running", "Running", *sorted(WAITING_STATUSES)])
def test_running_never_ends(status: str) -> None:
    """A job that its provider says is running, or will, is never given up."""
    assert not ended_by(seconds=400 * 86_400, status=status)


@pytest.mark.parametrize("status", [None, "training", "succeeded?"])
def test_unknown_status_ends_after_days(status: str | None) -> None:
    """Where nobody tells that a job has ended, days without news say so."""
    news = ArrivalHistory(7, after(86_400), None, None)
    assert [False, True] == [ended_by(news, seconds=86_400 * days + 1, status=status) for days in (3, 4)]
    assert not ended_by(news, seconds=86_400 * 30, status=status, changed_at=after(86_400 * 29))
    assert not ended_by(news, seconds=86_400 * 30, status=status, tracked_at=after(86_400 * 29))


@pytest.mark.parametrize("status", [*sorted(ENDED_STATUSES), "Succeeded"])
def test_an_ended_status_is_believed_at_once(status: str) -> None:
    """Where its status says that a job has ended, nothing is waited for."""
    assert ended_by(status=status)


def test_tracking_anew_starts_anew() -> None:
    """A job that is tracked again after a long time is watched as a new one, not as one without news for so long."""
    old = ArrivalHistory(7, after(0), None, None)
    assert Plan(15, settled=False) == plan_for(old, seconds=86_400 * 30, tracked_at=after(86_400 * 30), status=None)


def test_settling_gaps_grow() -> None:
    """After its end a job is polled at once, then ever more rarely, whatever its rhythm was."""
    rhythm = ArrivalHistory(7, START, 600, 10)
    gaps = [plan_for(rhythm, seconds=s, status="succeeded", settling_since=START).gap for s in (0, 60, 400, 4000)]
    assert [15, 15, 100, 300] == gaps


@pytest.mark.parametrize(("expected", "hours"), [(False, 0), (False, 23.99), (True, 24), (True, 1000)])
@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "paused", None])
def test_settled_after_a_day(expected: bool, hours: float, status: str | None) -> None:
    """Equal listings may seal a job that has ended only after a day."""
    assert expected == plan_for(seconds=3600 * hours, settling_since=START, status=status).settled


@examples
@given(memories, seconds, statuses)
def test_never_settled_early(memory: ArrivalHistory, now: float, status: str | None) -> None:
    """Too little time since the end, or none, settles nothing, whatever is remembered."""
    assert not plan_for(memory, seconds=now, status=status).settled
    assert not plan_for(memory, seconds=now, status=status, settling_since=after(now - 86_399)).settled


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("longest", [300, 1200])
def test_polls_are_aimed(seed: int, longest: float) -> None:
    """Of checkpoints every 600 s ± 5 % half are seen within 20 s, by fewer than 8 polls each."""
    watch = Watch(arrivals(600, 0.05, 60, seed), BOUNDS._replace(longest=longest))
    assert 20 > median(watch.delays[3:])
    assert 120 > max(watch.delays[3:])
    assert 8 * 60 > watch.polls
    assert watch.memory.spacing_s == pytest.approx(600, rel=0.05)


def test_aim_window_and_patience() -> None:
    """Before its window the next poll is aimed at it, within it they are dense, and past it ever more sparse."""
    rhythm = ArrivalHistory(7, START, 600, 80)
    ages = {0: 425, 400: 25, 425: 40, 774: 40, 775: 43.75, 1000: 100, 3000: 600, 86_400: 900}
    assert ages == {age: plan_for(rhythm, seconds=age, bounds=BOUNDS._replace(longest=900)).gap for age in ages}


@pytest.mark.parametrize("spacing", [40, 150, 600, 3600])
def test_regular_arrivals_are_seen_at_once(spacing: float) -> None:
    """Checkpoints at equal distances are seen about as soon as the shortest gap allows, whatever the distance is."""
    watch = Watch(arrivals(spacing, 0, 40, 0), BOUNDS)
    assert 20 > median(watch.delays[20:])


def test_change_of_rhythm_is_learnt() -> None:
    """A job whose checkpoints come twice as often, or half as often, is soon aimed at anew."""
    for second in (300, 1200):
        first = arrivals(600, 0.02, 20, 1)
        watch = Watch([*first, *(first[-1] + t for t in arrivals(second, 0.02, 40, 2))], BOUNDS)
        assert 30 > median(watch.delays[40:])
        assert watch.memory.spacing_s == pytest.approx(second, rel=0.1)


@examples
@given(st.lists(st.floats(0, 5000), min_size=1, max_size=12), st.floats(1, 60), st.floats(60, 600))
def test_any_arrivals_are_seen(gaps: list[float], shortest: float, longest: float) -> None:
    """However irregular they are, every checkpoint is seen within the longest gap after it became visible."""
    times = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    watch = Watch(times, BOUNDS._replace(shortest=shortest, longest=longest))
    assert longest >= max(watch.delays)
    assert sum(gaps) / shortest + 2 >= watch.polls


def test_learning() -> None:
    """The first sight gives no rhythm, the second a spacing, further ones its mean; nothing new changes nothing."""
    first = learn(NOTHING, [3, 1, 2], after(0))
    assert ArrivalHistory(3, after(0), None, None) == first
    second = learn(first, [3, 4, 1], after(600))
    assert ArrivalHistory(4, after(600), 600, 150) == second
    assert second is learn(second, [4, 3, 2], after(700)) is learn(second, [], after(700))
    third = learn(second, [5], after(1300))
    assert (5, after(1300), 630) == third[:3]
    assert 135 == pytest.approx(third.spread_s)


def test_several_at_once_share_the_wait() -> None:
    """Checkpoints that become visible together count as many, however often each is listed."""
    assert 200 == learn(ArrivalHistory(3, START, None, None), [4, 5, 6, 6, 4], after(600)).spacing_s


def test_a_clock_that_went_back_teaches_no_negative_time() -> None:
    """An arrival seen before the last one, by the clock, is a spacing of nothing, and the gap stays within bounds."""
    memory = learn(ArrivalHistory(3, after(600), None, None), [4], after(0))
    assert ArrivalHistory(4, after(0), 0, 0) == memory
    assert 15 == plan_for(memory).gap


@examples
@given(st.floats(0.01, 3600), st.integers(1, 10**9), st.floats(1, 3600), st.integers(1, 2**63 - 1))
def test_back_off(gap: float, failures: int, cap: float, job: int) -> None:
    """Each failure doubles the gap up to the cap, less a fifth at most; the same failure always waits as long."""
    doubled = min(gap * 2.0 ** min(failures, 100), max(cap, gap))
    wait = back_off(gap, failures, cap, job)
    assert 0.8 * doubled <= wait <= doubled
    assert wait == back_off(gap, failures, cap, job)


def test_back_off_grows_above_the_longest_gap() -> None:
    """A job polled every 300 s that fails on and on is asked for every quarter of an hour, give or take a fifth."""
    waits = [back_off(300, failures, cadence.FAILURE_CAP, 1) for failures in range(1, 50)]
    assert 480 <= waits[0] <= 600
    assert all(720 <= wait <= 900 for wait in waits[1:])


def test_jobs_that_fail_together_return_apart() -> None:
    """Jobs that failed at one moment do not come back at one moment: their waits fill the fifth that they may."""
    waits = [back_off(15, 10, cadence.FAILURE_CAP, job) for job in range(1000)]
    assert len(set(waits)) == len(waits)
    assert max(waits) - min(waits) > 0.19 * 900
    assert 810 == pytest.approx(sum(waits) / len(waits), rel=0.02)


@pytest.mark.parametrize(
    ("expected", "failures", "seconds"),
    [(False, 4, 3600), (False, 5, 3599), (True, 5, 3600), (True, 99, 10**6), (False, 99, -1)],
)
def test_gone(expected: bool, failures: int, seconds: float) -> None:
    """A job is gone when it was not found five times, over an hour or more."""
    assert expected == is_gone(failures, START, after(seconds))


def test_not_gone_without_a_start() -> None:
    """A job that has only begun to be missing is not gone, whatever the count says."""
    assert not is_gone(99, None, START)


def test_settling_is_set_by_the_operator() -> None:
    """How long a job is watched after its end, and when one of unknown status counts as ended, are the operator's."""
    brief = BOUNDS._replace(settle=60, assume_ended=600)
    ended = {"settling_since": START, "status": "succeeded"}
    assert [False, True] == [plan_for(seconds=s, bounds=brief, **ended).settled for s in (59, 60)]
    assert [False, True] == [ended_by(seconds=s, status=None, bounds=brief) for s in (600, 601)]
