"""Whether a failure concerns one job or its whole source, and the state of the source. Pure.

One Attribution for each source and process is told the outcome of each poll and of each reading of the job list. Some
failures tell by themselves whom they concern (SOURCE_FAILURES and JOB_FAILURES in failure.py). But if one
job alone is refused, throttled or out of quota again and again, it has a failure of its own: see is_refused_alone().
The other failures concern the source in two cases:

- Three jobs failed, and no job succeeded in between. The job list counts as two jobs, because it stands for many.
- Something in front of the API answered (`gateway`), and no other job succeeded within the last minute.

A timeout is no evidence if another job succeeded within the last minute: many jobs may be slow at once.

A job that failed before another one succeeded has a failure of its own. It is no evidence against the source until it
succeeds again. So a few bad jobs never silence a source whose other jobs can be read.

If the only evidence are refusals in the API's own words (REFUSALS), the source is shown as failing, but it is not
silenced, and the failures count against the jobs, too. Many jobs may have been deleted at once, and the others must not
wait.

Times are on the event loop's clock, in seconds.
"""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from checkpointd.domain.failure import JOB_FAILURES, REFUSALS, SOURCE_FAILURES, ErrorClass, Failure, pause_seconds

JOB_LIST: Final = 0
"""Stands for the job list where a job is named. The keys of jobs start at 1."""

ENOUGH_FAILURES: Final = 3
"""So many jobs that fail in a row show that their source fails. The job list counts as JOB_LIST_WEIGHT jobs."""
JOB_LIST_WEIGHT: Final = 2

RECENT_SECONDS: Final = 60.0
"""A gateway that answers for one job does not concern the source if another job succeeded within this time."""

OWN_FAILURES: Final = 3
"""A job that failed so often in a row while its source was `ok` has failures of its own. This is what a process knows
of a job that it has not polled yet. It is also how often one job alone is refused before the failure is its own."""

TEST_JOBS: Final = 4
"""At most so many jobs test a failing source at once."""

SUSPICION_SECONDS: Final = 1.0
"""How long a source is silent after a job was refused or throttled, although others were read within RECENT_SECONDS.
It may concern this job alone. Other jobs then test the source. If the next answer is the same, the whole silence
follows."""


class SourceState(StrEnum):
    """The states of a source, as the column `state` of the view `sources` shows them."""

    OK = "ok"
    PAUSED = "paused"
    """The provider throttles, or the quota is used up. All daemons wait."""
    REFUSED = "refused"
    """The provider rejects the key of this process."""
    FAILING = "failing"
    """The provider does not answer this process as an API should, whatever the job."""


SILENCES: Final = {
    SourceState.REFUSED: (60.0, 120.0, 300.0),
    SourceState.FAILING: (1.0, 15.0, 30.0, 60.0, 120.0, 300.0),
}
"""The seconds of silence after the first, second, … failure of a source in a row. The last one is repeated. The first
silence of a failing source is short, because it may be many jobs that fail for ever, polled one after the other."""

_STATE_BY_CLASS: Final = {ErrorClass.REFUSED: SourceState.REFUSED, ErrorClass.UNREACHABLE: SourceState.FAILING}
"""The states that failures of the source lead to; the others lead to a pause."""


class Verdict(NamedTuple):
    """What the outcome of a poll means."""

    blames_job: bool = True
    """True if a failure counts against the job, also one that only evaluate() finds. It can concern the source, too."""
    source_fails: bool = False
    """True if the source is failing."""
    answered_ago: float | None = 0.0
    """The seconds since another job or the job list was read, or None if this process has not read any."""
    refused_alone: bool = False
    """True if one of SOURCE_FAILURES counts against the job."""


class Attribution:
    """What the outcomes of one source, in one process, say about it.

    A source is silent while this process sends it no requests.
    """

    def __init__(self) -> None:
        self.state = SourceState.OK
        self.failure: Failure | None = None
        """Why the source is not `ok`, or None."""
        self._silent_until = 0.0
        self._silences = 0
        """How often in a row the source became silent in its present state."""
        self._suspect: int | None = None
        """The job that was refused or throttled, if the last silence was that of a suspicion."""
        self._failed: dict[int, Failure] = {}
        """The jobs that failed since a job last succeeded, with their last failures."""
        self._own: set[int] = set()
        """The jobs with failures of their own."""
        self._stopped_by: dict[int, tuple[ErrorClass, float, int]] = {}
        """The jobs whose last failures stopped the source: their class, the time of the first one, and how many."""
        self._sent_successfully = -math.inf
        """When the last successful poll was started."""
        self._last_success: tuple[int, float] | None = None
        """The job that succeeded last, and when."""
        self._other_success: float | None = None
        """When a job other than that one last succeeded."""

    def is_silent(self, now: float) -> bool:
        """Return whether no request may be made now."""
        return now < self._silent_until

    def silent_seconds(self, now: float) -> float:
        """Return for how many seconds no request may be made, or 0 if one may be made now."""
        return max(self._silent_until - now, 0.0)

    def test_jobs(self, concurrency: int) -> int | None:
        """Return how many jobs may be polled at once, to test a source after its silence, or None without a limit."""
        if not self._silences and self._suspect is None:
            return None
        return 1 if self.state is SourceState.REFUSED else min(TEST_JOBS, concurrency)

    @property
    def tests_recent_jobs(self) -> bool:
        """True if the jobs that were read most recently test the source. After longer silences random ones do."""
        return self._silences == 1

    def end_silence(self) -> None:
        """Let requests be made at once."""
        self._silent_until = 0.0

    def record_poll(
        self,
        job: int,
        failure: Failure | None,
        now: float,
        *,
        has_pages: bool,
        started: float | None = None,
        known_failures: int = 0,
    ) -> Verdict:
        """Record the outcome of a poll that was `started` then or just now, and return what it means.

        A poll that read at least one page shows that the source answers. `known_failures` is how many polls of the job
        failed in a row while its source was `ok`, according to the database.
        """
        answered_ago, started = self._since_success_of_another(job, now), now if started is None else started
        if failure is None or (has_pages and failure.error_class not in SOURCE_FAILURES):
            self._record_success(job, now)
            self._stopped_by.pop(job, None)
            self._sent_successfully = max(self._sent_successfully, started)
            blames_job = True
        else:
            if known_failures >= OWN_FAILURES and job not in self._failed:
                self._own.add(job)
            blames_job = not self._concerns_source(job, failure, now, started)
        refused_alone = blames_job and failure is not None and failure.error_class in SOURCE_FAILURES
        return Verdict(blames_job, self.state is SourceState.FAILING, answered_ago, refused_alone)

    def is_refused_alone(self, job: int, failure: Failure, now: float) -> bool:
        """Record that a job met one of SOURCE_FAILURES. Return whether it alone has met it OWN_FAILURES times.

        Another job must have been read by a poll that started after the first failure: then the refusal was over for
        others. A rate is shared by all jobs, so that each of them meets its limit at times. If another job is
        throttled, too, the count starts again.
        """
        error_class = failure.error_class
        if error_class is ErrorClass.UNREACHABLE:  # a connection is not made for a job
            return False
        if error_class is ErrorClass.THROTTLED:
            others = [j for j, known in self._stopped_by.items() if j != job and known[0] is error_class]
            for other in others:
                del self._stopped_by[other]
        known_class, first, times = self._stopped_by.get(job, (error_class, now, 0))
        if known_class != error_class:
            first, times = now, 0
        self._stopped_by[job] = error_class, first, times + 1
        return times + 1 >= OWN_FAILURES and first < self._sent_successfully

    def record_job_list(self, failure: Failure | None, now: float) -> None:
        """Record the outcome of a reading of the job list.

        If it succeeds, a failing source is `ok` again only if too few jobs failed: the provider may answer for its job
        list alone.
        """
        if failure is not None:
            self._concerns_source(JOB_LIST, failure, now, now)
            return
        self._own.discard(JOB_LIST)
        self._stopped_by.pop(JOB_LIST, None)
        self._failed.pop(JOB_LIST, None)
        self._remember_success(JOB_LIST, now)
        is_over = {
            SourceState.PAUSED: not self.is_silent(now),
            SourceState.FAILING: not _are_enough(self._failed),
        }
        if is_over.get(self.state, False):
            self._recover()

    def _record_success(self, job: int, now: float) -> None:
        self._remember_success(job, now)
        self._failed.pop(job, None)
        self._own |= {j for j, f in self._failed.items() if f.error_class not in SOURCE_FAILURES}
        self._own.discard(job)
        self._failed.clear()
        # A request that was sent before a pause began does not end it. A failing source only has to answer.
        if self.state is SourceState.FAILING or not self.is_silent(now):
            self._recover()

    def _recover(self) -> None:
        self.state, self.failure = SourceState.OK, None
        self._silent_until, self._silences, self._suspect = 0.0, 0, None

    def _concerns_source(self, job: int, failure: Failure, now: float, started: float) -> bool:
        """Record a failure, and return whether it concerns the source and not the job."""
        error_class = failure.error_class
        if error_class in SOURCE_FAILURES:
            if self.is_refused_alone(job, failure, now):
                return False
            self._failed[job] = failure
            self._silence(_STATE_BY_CLASS.get(error_class, SourceState.PAUSED), job, failure, now)
            return True
        if error_class in JOB_FAILURES:
            return False
        is_refusal = error_class in REFUSALS
        if self.state is SourceState.FAILING and self._silences and not is_refusal:
            self._failed[job] = failure
            if started >= self._silent_until:  # a test that failed
                self._silence(SourceState.FAILING, job, failure, now)
            return True
        if job in self._own:
            return False
        if error_class is ErrorClass.TIMEOUT and self._answered_lately(job, now):
            return False
        self._failed[job] = failure
        if not is_refusal and (
            _are_enough(j for j, f in self._failed.items() if f.error_class not in REFUSALS)
            or (error_class is ErrorClass.GATEWAY and job != JOB_LIST and not self._answered_lately(job, now))
        ):
            self._silence(SourceState.FAILING, job, failure, now)
            return True
        if _are_enough(self._failed) and self.state is not SourceState.FAILING and not self.is_silent(now):
            self.state, self.failure, self._silences = SourceState.FAILING, failure, 0
        return False

    def _silence(self, state: SourceState, job: int, failure: Failure, now: float) -> None:
        """Make the source silent. The failures of requests that were sent before a silence do not prolong it.

        But if a second job meets the same failure as the suspected one, the suspicion is confirmed.
        """
        is_confirmed = self._suspect not in {None, job} and state is self.state
        if self.is_silent(now) and not is_confirmed:
            return
        if state is not self.state:
            self._silences = 0
        was_ok, self.state, self.failure = self.state is SourceState.OK, state, failure
        if (
            was_ok
            and state is not SourceState.FAILING
            and failure.retry_after is None
            and self._answered_lately(job, now)
        ):
            self._suspect, self._silent_until = job, now + SUSPICION_SECONDS
            return
        self._suspect = None
        if state is SourceState.PAUSED:
            seconds = pause_seconds(failure)
        else:
            longest = SILENCES[state][-1]
            seconds = SILENCES[state][min(self._silences, len(SILENCES[state]) - 1)]
            seconds = max(seconds, min(failure.retry_after or 0, longest))
            self._silences += 1
        self._silent_until = now + seconds

    def _remember_success(self, job: int, now: float) -> None:
        if self._last_success is not None and self._last_success[0] != job:
            self._other_success = self._last_success[1]
        self._last_success = job, now

    def _since_success_of_another(self, job: int, now: float) -> float | None:
        if self._last_success is not None and self._last_success[0] != job:
            return now - self._last_success[1]
        return None if self._other_success is None else now - self._other_success

    def _answered_lately(self, job: int, now: float) -> bool:
        seconds = self._since_success_of_another(job, now)
        return seconds is not None and seconds <= RECENT_SECONDS


def _are_enough(failed: Iterable[int]) -> bool:
    """Return whether so many jobs failed that the cause is their source."""
    return sum(JOB_LIST_WEIGHT if job == JOB_LIST else 1 for job in failed) >= ENOUGH_FAILURES
