"""When a key is renewed: at the start, before its expiry and after a refusal, with growing gaps while that fails."""

import pytest

from checkpointd.domain.key_schedule import FIRST_GAP, LONGEST_GAP, KeySchedule


def next_run(schedule: KeySchedule, now: float, *, is_refused: bool = False) -> float:
    """Return the whole number of seconds after which the next run is due."""
    return next(s for s in range(100_000) if schedule.is_due(now + s, is_refused=is_refused))


def test_first_run() -> None:
    """A command is due at once. Files, which are read before, are due only after a refusal, and then at each look."""
    assert KeySchedule(is_command=True).is_due(0.0, is_refused=False)
    files = KeySchedule(is_command=False)
    assert [False, True] == [files.is_due(1e6, is_refused=refused) for refused in (False, True)]
    files.record_failure(1e6)
    assert [False, True] == [files.is_due(1e6 + 1, is_refused=refused) for refused in (False, True)]
    files.record_success(1e6 + 1, None, is_new=False, was_refused=True)
    assert [False, True] == [files.is_due(1e6 + 2, is_refused=refused) for refused in (False, True)]


@pytest.mark.parametrize(("seconds", "expected"), [(3600.0, 3480), (240.0, 180), (20.0, 15)])
def test_renewal_before_the_expiry(seconds: float, expected: int) -> None:
    """A key is renewed two minutes before it expires, or after three quarters of a shorter life, again and again."""
    schedule, now = KeySchedule(is_command=True), 0.0
    for _ in range(20):
        schedule.record_success(now, seconds, is_new=True, was_refused=False)
        assert expected == next_run(schedule, now)
        now += expected


def test_unknown_expiry() -> None:
    """Without an expiry the command is run only after a refusal, and then at once."""
    schedule = KeySchedule(is_command=True)
    schedule.record_success(0.0, None, is_new=True, was_refused=False)
    assert [False, True] == [schedule.is_due(1e6, is_refused=refused) for refused in (False, True)]


@pytest.mark.parametrize("case", ["fails", "refused", "same", "expired"])
def test_gaps_grow(case: str) -> None:
    """The gaps double if the command fails, or prints a key that is refused, the same as before, or expired."""
    schedule, now, gaps = KeySchedule(is_command=True), 0.0, []
    for _ in range(12):
        if case == "fails":
            schedule.record_failure(now)
        else:
            seconds = {"refused": None, "same": 1.0, "expired": -5.0}[case]
            schedule.record_success(now, seconds, is_new=case != "same", was_refused=case == "refused")
        gaps.append(next_run(schedule, now, is_refused=case == "refused"))
        now += gaps[-1]
    assert [min(FIRST_GAP * 2**n, LONGEST_GAP) for n in range(12)] == gaps
    schedule.hurry()
    assert schedule.is_due(now - 1, is_refused=False), "at once, if a person asks for it"


def test_gaps_end() -> None:
    """After a good key, or a long time, a failure is followed by the first gap again."""
    schedule = KeySchedule(is_command=True)
    for now in (0.0, 1.0, 3.0):
        schedule.record_failure(now)
    schedule.record_success(7.0, 3600.0, is_new=True, was_refused=False)
    schedule.record_failure(8.0)
    assert 2 * FIRST_GAP == next_run(schedule, 8.0)
    schedule.record_failure(1000.0)
    assert FIRST_GAP == next_run(schedule, 1000.0)
