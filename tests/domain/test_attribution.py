"""Whom a failure concerns: one job or its source. Bad jobs never silence a source whose other jobs can be read."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.domain.attribution import (
    JOB_LIST,
    OWN_FAILURES,
    RECENT_SECONDS,
    SILENCES,
    SUSPICION_SECONDS,
    TEST_JOBS,
    Attribution,
    SourceState,
    Verdict,
)
from checkpointd.domain.failure import JOB_FAILURES, REFUSALS, SOURCE_FAILURES, ErrorClass, Failure

UNCLEAR = sorted(set(ErrorClass) - SOURCE_FAILURES - JOB_FAILURES - REFUSALS)
"""Classes that concern a job or its source, depending on what others receive. They can silence a source."""

HEALTHY = 99


def _fail(source: Attribution, job: int, error_class: ErrorClass, now: float = 0, **known: int) -> Verdict:
    return source.record_poll(job, Failure(error_class, f"{error_class} of {job}"), now, has_pages=False, **known)


def _succeed(source: Attribution, job: int, now: float = 0) -> Verdict:
    return source.record_poll(job, None, now, has_pages=True)


def _fail_all(source: Attribution, jobs: Sequence[int], error_class: ErrorClass, now: float = 0) -> list[bool]:
    """Let jobs fail one after the other. Returns which of them are blamed."""
    return [_fail(source, job, error_class, now).blames_job for job in jobs]


# By the answer itself


@pytest.mark.parametrize(
    ("error_class", "state"),
    [
        (ErrorClass.THROTTLED, SourceState.PAUSED),
        (ErrorClass.QUOTA, SourceState.PAUSED),
        (ErrorClass.REFUSED, SourceState.REFUSED),
        (ErrorClass.UNREACHABLE, SourceState.FAILING),
    ],
)
def test_failures_of_the_source(error_class: ErrorClass, state: SourceState) -> None:
    """A pause, a refused key and a missing connection concern the source at once, even if other jobs were just read."""
    source = Attribution()
    _succeed(source, HEALTHY)
    assert not _fail(source, 1, error_class).blames_job
    assert (state, True) == (source.state, source.is_silent(0.9))


@pytest.mark.parametrize("error_class", sorted(SOURCE_FAILURES - {ErrorClass.UNREACHABLE}))
def test_suspicion(error_class: ErrorClass) -> None:
    """A refusal beside jobs that were just read silences a second; then others show whether it concerns the source."""
    alone, common = Attribution(), Attribution()
    for source in (alone, common):
        _succeed(source, HEALTHY)
        _fail(source, 1, error_class)
        assert (False, True) == (source.is_silent(SUSPICION_SECONDS), source.test_jobs(16) in {1, TEST_JOBS})
    _succeed(alone, HEALTHY, SUSPICION_SECONDS)
    assert (SourceState.OK, None) == (alone.state, alone.test_jobs(16))
    _fail(common, 2, error_class, SUSPICION_SECONDS)
    assert common.is_silent(SUSPICION_SECONDS + 59)


def test_confirmed_suspicion() -> None:
    """If a second job is refused while the source is silent for a second, the whole silence follows at once."""
    source = Attribution()
    _succeed(source, HEALTHY)
    _fail(source, 1, ErrorClass.REFUSED)
    _fail(source, 1, ErrorClass.REFUSED, 0.5)
    assert not source.is_silent(2)
    _fail(source, 2, ErrorClass.REFUSED)
    assert source.is_silent(SILENCES[SourceState.REFUSED][0] - 1)


def test_asked_pause_is_kept() -> None:
    """If the provider states how long to wait, the source pauses for as long, even if other jobs were just read."""
    source = Attribution()
    _succeed(source, HEALTHY)
    source.record_poll(1, Failure(ErrorClass.THROTTLED, "", retry_after=20), 0, has_pages=False)
    assert source.is_silent(19)


def test_timeouts_beside_others() -> None:
    """However many jobs time out, the source is ok if another job was read within the last minute."""
    source = Attribution()
    _succeed(source, HEALTHY)
    assert [True] * 20 == _fail_all(source, range(1, 21), ErrorClass.TIMEOUT, RECENT_SECONDS)
    assert SourceState.OK == source.state
    assert [True, True, False] == _fail_all(source, range(1, 4), ErrorClass.TIMEOUT, RECENT_SECONDS + 1)
    assert SourceState.FAILING == source.state


@pytest.mark.parametrize("error_class", sorted(JOB_FAILURES))
def test_failures_of_the_job(error_class: ErrorClass) -> None:
    """A list that cannot be read to its end is blamed on its job, whatever number of jobs has one."""
    source = Attribution()
    assert [True] * 20 == _fail_all(source, range(1, 21), error_class)
    assert SourceState.OK == source.state


@pytest.mark.parametrize("error_class", [*UNCLEAR, *sorted(REFUSALS)])
def test_failure_after_a_page(error_class: ErrorClass) -> None:
    """A listing that breaks off after a page is blamed on its job: the source has answered."""
    source = Attribution()
    for job in range(1, 21):
        assert source.record_poll(job, Failure(error_class, ""), 0, has_pages=True).blames_job
    assert SourceState.OK == source.state


# By what other jobs receive


@pytest.mark.parametrize("error_class", sorted(set(UNCLEAR) - {ErrorClass.GATEWAY}))
def test_three_jobs_in_a_row(error_class: ErrorClass) -> None:
    """The third job in a row that fails shows that the source fails. One job that fails again and again does not."""
    source = Attribution()
    assert [True] * 20 == _fail_all(source, [1] * 20, error_class)
    assert [True, False, False] == _fail_all(source, [2, 3, 4], error_class)
    assert (SourceState.FAILING, True) == (source.state, source.is_silent(0.9))


def test_different_failures_in_a_row() -> None:
    """The failures of an outage may differ."""
    source = Attribution()
    for job, error_class in enumerate((ErrorClass.TIMEOUT, ErrorClass.MISSING, ErrorClass.NETWORK), 1):
        _fail(source, job, error_class)
    assert (SourceState.FAILING, False) == (source.state, source.is_silent(0))
    assert not _fail(source, 4, ErrorClass.HTML).blames_job
    assert source.is_silent(0.9)


def test_job_list_and_a_job() -> None:
    """A job list that fails beside the only job shows that the source fails."""
    source = Attribution()
    source.record_job_list(Failure(ErrorClass.SERVER_ERROR, ""), 0)
    assert SourceState.OK == source.state
    assert not _fail(source, 1, ErrorClass.SERVER_ERROR).blames_job
    source.record_job_list(None, 20)
    assert SourceState.OK == source.state


def test_job_list_does_not_end_the_failures_of_all_jobs() -> None:
    """If all jobs fail and the job list can be read, the source stays failing."""
    source = Attribution()
    _fail_all(source, range(1, 5), ErrorClass.SERVER_ERROR)
    source.record_job_list(None, 20)
    assert SourceState.FAILING == source.state
    _succeed(source, 1, 30)
    assert SourceState.OK == source.state


def test_gateway_answers_alone() -> None:
    """Something else than the API that answers for one job concerns the source, if no other job was read lately."""
    source = Attribution()
    assert not _fail(source, 1, ErrorClass.GATEWAY).blames_job
    assert SourceState.FAILING == source.state
    source = Attribution()
    _succeed(source, 1)  # the job itself
    assert not _fail(source, 1, ErrorClass.GATEWAY).blames_job
    for other in (JOB_LIST, HEALTHY):
        source = Attribution()
        _succeed(source, other)
        _succeed(source, 1)
        assert _fail(source, 1, ErrorClass.GATEWAY, RECENT_SECONDS).blames_job
        assert not _fail(source, 2, ErrorClass.GATEWAY, RECENT_SECONDS + 1).blames_job


def test_refusal_as_the_first_answer() -> None:
    """A refusal in the API's own words as the first answer of all is blamed on its job."""
    for error_class in sorted(REFUSALS):
        source = Attribution()
        assert _fail(source, 1, error_class) == Verdict(answered_ago=None)
        assert (SourceState.OK, False) == (source.state, source.is_silent(1))


@pytest.mark.parametrize("error_class", sorted(REFUSALS))
def test_refusals_of_all_jobs(error_class: ErrorClass) -> None:
    """If all jobs are refused in the API's own words, the source is failing but not silent; the jobs are blamed."""
    source = Attribution()
    assert [True] * 50 == _fail_all(source, range(1, 51), error_class)
    assert (SourceState.FAILING, False, None) == (source.state, source.is_silent(1), source.test_jobs(8))
    assert _fail(source, 51, error_class).source_fails
    _succeed(source, HEALTHY)
    assert SourceState.OK == source.state
    assert [True] * 50 == _fail_all(source, range(1, 51), error_class)  # now they have failures of their own
    assert SourceState.OK == source.state


def test_failures_that_are_known() -> None:
    """A new process does not take jobs that have failed for long in a source that works for evidence against it."""
    source = Attribution()
    for job in range(1, 9):
        assert _fail(source, job, ErrorClass.SERVER_ERROR, known_failures=OWN_FAILURES).blames_job
    assert SourceState.OK == source.state


# The state of a source


def test_silences_grow_and_end() -> None:
    """Each test that fails makes the silence longer, up to five minutes. A few jobs test; a success ends it at once."""
    source, now, silences = Attribution(), 0.0, []
    _fail_all(source, (1, 2, 3), ErrorClass.SERVER_ERROR)
    for job in range(4, 11):
        assert (TEST_JOBS, 2) == (source.test_jobs(8), source.test_jobs(2))
        started = now
        while source.is_silent(now):
            now += 1
        silences.append(now - started)
        assert not _fail(source, job, ErrorClass.HTML, now).blames_job
        _fail(source, job + 100, ErrorClass.HTML, now)  # a request of the same test does not prolong the silence
    assert [*SILENCES[SourceState.FAILING], SILENCES[SourceState.FAILING][-1]] == silences
    _succeed(source, HEALTHY, now)
    assert (SourceState.OK, False, None) == (source.state, source.is_silent(now), source.test_jobs(8))


def test_only_tests_prolong_a_silence() -> None:
    """A poll that started before a silence and fails after it is no test of the failing source."""
    source = Attribution()
    _fail_all(source, (1, 2, 3), ErrorClass.SERVER_ERROR)
    failure = Failure(ErrorClass.SERVER_ERROR, "")
    assert not source.record_poll(4, failure, 1.5, has_pages=False, started=0.5).blames_job
    assert not source.is_silent(1.5)
    assert not source.record_poll(5, failure, 1.5, has_pages=False, started=1.0).blames_job
    assert source.is_silent(16)


def test_many_jobs_that_always_failed() -> None:
    """Each test of a failing source that reads a job shows that the jobs that failed before have their own failures."""
    source, now, unknown = Attribution(), 0.0, list(range(1, 301))
    _succeed(source, HEALTHY, now)
    while unknown:
        assert not source.test_jobs(8)
        while unknown and not source.is_silent(now):
            _fail(source, unknown.pop(), ErrorClass.SERVER_ERROR, now)
        for _ in range(13):  # those that ran meanwhile
            if unknown:
                _fail(source, unknown.pop(), ErrorClass.SERVER_ERROR, now)
        now += source.silent_seconds(now)
        assert source.tests_recent_jobs or not unknown
        _succeed(source, HEALTHY, now)
    assert now < 30
    assert [True] * 300 == _fail_all(source, range(1, 301), ErrorClass.SERVER_ERROR, now)


def test_late_success_ends_no_pause() -> None:
    """A success during a pause was requested before it. After the pause, a success ends the state."""
    source = Attribution()
    source.record_poll(1, Failure(ErrorClass.THROTTLED, "", retry_after=120), 0, has_pages=False)
    _succeed(source, HEALTHY, 119)
    assert (SourceState.PAUSED, True) == (source.state, source.is_silent(119))
    _succeed(source, HEALTHY, 120)
    assert SourceState.OK == source.state


def test_refused_key_is_tested_by_one_job() -> None:
    """After a refused key one job tests the source, again within five minutes; the job list does not end the state."""
    source, now = Attribution(), 0.0
    for _ in range(9):
        _fail(source, 1, ErrorClass.REFUSED, now)
        assert 1 == source.test_jobs(8)
        assert source.is_silent(now + 59)
        now += 300
        assert not source.is_silent(now)
    source.record_job_list(None, now)
    assert SourceState.REFUSED == source.state


def test_retry_after_of_a_failing_source() -> None:
    """A failing source is silent for as long as its answer requests, but for five minutes at most."""
    for requested, silence in ((1, 1), (100, 100), (3600, 300)):
        source = Attribution()
        for job in (1, 2, 3):
            source.record_poll(job, Failure(ErrorClass.SERVER_ERROR, "", retry_after=requested), 0, has_pages=False)
        assert (True, False) == (source.is_silent(silence - 0.1), source.is_silent(silence))


def test_success_of_another() -> None:
    """A verdict tells how long ago another job or the job list was read, and never the job itself."""
    source = Attribution()
    _succeed(source, 1, 10)
    assert None is _fail(source, 1, ErrorClass.MISSING, 20).answered_ago
    assert 10 == _fail(source, 2, ErrorClass.MISSING, 20).answered_ago
    source.record_job_list(None, 25)
    _succeed(source, 1, 30)
    assert 15 == _fail(source, 1, ErrorClass.MISSING, 40).answered_ago
    assert 10 == _fail(source, 2, ErrorClass.MISSING, 40).answered_ago


@given(
    bad=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([*UNCLEAR, *sorted(REFUSALS), *sorted(JOB_FAILURES)]))),
    seconds=st.lists(st.floats(0, RECENT_SECONDS), min_size=1),
)
def test_a_healthy_job_keeps_its_source_alive(bad: list[tuple[int, ErrorClass]], seconds: list[float]) -> None:
    """If a healthy job is read between any two failures, the source is never failing or silent, and each job is blamed.

    Job 0 stands for the job list.
    """
    source, now = Attribution(), 0.0
    for number, (job, error_class) in enumerate(bad):
        _succeed(source, HEALTHY, now)
        now += seconds[number % len(seconds)]
        if job == JOB_LIST:
            source.record_job_list(Failure(error_class, ""), now)
        else:
            assert _fail(source, job, error_class, now).blames_job
        assert (SourceState.OK, False) == (source.state, source.is_silent(now))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(UNCLEAR)), min_size=1),
    st.lists(st.floats(0, 600), min_size=1),
)
def test_an_outage_ends_with_its_first_success(outage: list[tuple[int, ErrorClass]], seconds: list[float]) -> None:
    """After any outage, a success makes the source `ok`, and its jobs can be polled at once."""
    source, now = Attribution(), 0.0
    for number, (job, error_class) in enumerate(outage):
        _fail(source, job, error_class, now)
        assert not source.is_silent(now + 300)
        now += seconds[number % len(seconds)]
    _succeed(source, HEALTHY, now)
    assert (SourceState.OK, False, None) == (source.state, source.is_silent(now), source.test_jobs(8))
