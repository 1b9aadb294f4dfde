"""The states of a job, and the events that change them. Pure.

The state of a job is the column `phase` of the view `fine_tuning.jobs`. The function checkpointd.phase
(sql/views/_shared.sql) derives it from five columns. If several states apply, it returns the first of these: untracked
(untracked_at), sealed (sealed_at), gone (is_gone), missing or forbidden (error_class), settling (settling_since),
active. The columns of the other states keep their values: a settling job that is not found is missing, and is settling
again once it is found.

The columns change only in SQL. This table documents the result, and tests compare it with the SQL:
tests/postgres/test_job_states.py causes each transition through the store, and tests/postgres/test_job_transitions.py
runs every statement on every combination of the columns.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """The states of a job, as the column `phase` shows them."""

    ACTIVE = "active"
    """The job runs or waits, or its status is unknown. It is polled as the cadence decides."""
    SETTLING = "settling"
    """The job has ended. It is still polled, because checkpoints and metrics arrive late."""
    SEALED = "sealed"
    """The job has ended, and its listing no longer changes. It is not polled any more."""
    MISSING = "missing"
    """The provider does not find the job."""
    GONE = "gone"
    """The provider has not found the job five times in a row, over at least an hour, although its source works. The job
    is polled daily."""
    FORBIDDEN = "forbidden"
    """The provider denies access to this job, but not to others."""
    UNTRACKED = "untracked"
    """The job is not tracked any more, and not polled. Its rows stay."""


class JobEvent(StrEnum):
    """The events that can change the state of a job. A poll is an event when it is saved.

    A status is final if it is one of ENDED_STATUSES (job.py). Claims, released leases and job records without a new
    status never change the state.
    """

    TRACKED = "tracked"
    """The job was tracked by an operator. It stays as it is if it was tracked already."""
    UNTRACKED = "untracked"
    """The job was untracked by an operator. A poll that is under way is still saved."""
    RESYNCED = "resynced"
    """A full comparison was requested by an operator."""
    RUNNING = "running"
    """The job list has a new status, which is not final."""
    ENDED = "ended"
    """The job list has a new status, which is final."""
    QUIET = "quiet"
    """A quiet poll. The job has not ended, or it was resynced or got a status during the poll."""
    QUIET_ENDED = "quiet_ended"
    """A quiet poll. The status is final, or it is unknown and nothing changed for a long time."""
    SETTLED = "settled"
    """The third quiet poll in a row after the settle time, of a job without rejects."""
    LISTED = "listed"
    """A complete listing was compared. Nothing changed, or the status is final."""
    CHANGED = "changed"
    """A complete listing was compared. Something changed, and the status is not final."""
    NOT_FOUND = "not_found"
    """The provider did not find the job (404)."""
    NOT_FOUND_FOR_LONG = "not_found_for_long"
    """The provider did not find the job for at least the fifth time in a row, an hour or more after the first time."""
    FORBIDDEN = "forbidden"
    """The provider denied access to this job (403), but not to others."""
    FAILED = "failed"
    """The poll failed for another reason that concerns the job. Part of a listing may have been saved."""
    SOURCE_FAILED = "source_failed"
    """The poll failed because of its source (attribution.py). Part of a listing may have been saved."""
    SHOWN = "shown"
    """The job list shows the job."""
    CLOCK_SET_BACK = "clock_set_back"
    """The time of a seal lies in the future, because the database's clock was ahead. It is looked for each minute."""


_ACTIVE: Final = frozenset({JobState.ACTIVE})
_SETTLING: Final = frozenset({JobState.SETTLING})
_SEALED: Final = frozenset({JobState.SEALED})
_MISSING: Final = frozenset({JobState.MISSING})
_GONE: Final = frozenset({JobState.GONE})
_FORBIDDEN: Final = frozenset({JobState.FORBIDDEN})
_UNTRACKED: Final = frozenset({JobState.UNTRACKED})
_POLLED: Final = _ACTIVE | _SETTLING
_FAILING: Final = _MISSING | _GONE | _FORBIDDEN

TRANSITIONS: Final[Mapping[JobState, Mapping[JobEvent, frozenset[JobState]]]] = {
    JobState.ACTIVE: {
        JobEvent.TRACKED: _ACTIVE,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _ACTIVE,
        JobEvent.RUNNING: _ACTIVE,
        JobEvent.ENDED: _SETTLING,
        JobEvent.QUIET: _ACTIVE,
        JobEvent.QUIET_ENDED: _SETTLING,
        JobEvent.LISTED: _ACTIVE,
        JobEvent.CHANGED: _ACTIVE,
        JobEvent.NOT_FOUND: _MISSING,
        JobEvent.FORBIDDEN: _FORBIDDEN,
        JobEvent.FAILED: _ACTIVE,
        JobEvent.SOURCE_FAILED: _ACTIVE,
        JobEvent.SHOWN: _ACTIVE,
        JobEvent.CLOCK_SET_BACK: _ACTIVE,
    },
    JobState.SETTLING: {
        JobEvent.TRACKED: _SETTLING,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _SETTLING,
        JobEvent.RUNNING: _ACTIVE,
        JobEvent.ENDED: _SETTLING,
        JobEvent.QUIET: _SETTLING,  # it ended during the poll
        JobEvent.QUIET_ENDED: _SETTLING,
        JobEvent.SETTLED: _SEALED,
        JobEvent.LISTED: _SETTLING,
        JobEvent.CHANGED: _POLLED,  # settling if it ended during the poll
        JobEvent.NOT_FOUND: _MISSING,
        JobEvent.FORBIDDEN: _FORBIDDEN,
        JobEvent.FAILED: _POLLED,  # active if the part that was read had changes, as after `changed`
        JobEvent.SOURCE_FAILED: _POLLED,
        JobEvent.SHOWN: _SETTLING,
        JobEvent.CLOCK_SET_BACK: _SETTLING,
    },
    # The command sync polls sealed jobs too. A failure is stored, but the job stays sealed until another event.
    JobState.SEALED: {
        JobEvent.TRACKED: _SEALED,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _POLLED | _FAILING,
        JobEvent.RUNNING: _ACTIVE | _FAILING,
        JobEvent.ENDED: _SETTLING | _FAILING,
        JobEvent.QUIET_ENDED: _SETTLING,  # the setting for the settle time was raised
        JobEvent.SETTLED: _SEALED,
        JobEvent.LISTED: _POLLED,
        JobEvent.CHANGED: _ACTIVE,
        JobEvent.NOT_FOUND: _SEALED,
        JobEvent.NOT_FOUND_FOR_LONG: _SEALED,
        JobEvent.FORBIDDEN: _SEALED,
        JobEvent.FAILED: _SEALED,
        JobEvent.SOURCE_FAILED: _SEALED,
        JobEvent.SHOWN: _SEALED,
        JobEvent.CLOCK_SET_BACK: _POLLED | _FAILING,
    },
    # A job in one of the next three states may have ended. Then it is settling again when the failure is over.
    JobState.MISSING: {
        JobEvent.TRACKED: _MISSING,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _MISSING,
        JobEvent.RUNNING: _MISSING,
        JobEvent.ENDED: _MISSING,
        JobEvent.QUIET: _POLLED,
        JobEvent.QUIET_ENDED: _SETTLING,
        JobEvent.SETTLED: _SEALED,
        JobEvent.LISTED: _POLLED,
        JobEvent.CHANGED: _POLLED,
        JobEvent.NOT_FOUND: _MISSING,
        JobEvent.NOT_FOUND_FOR_LONG: _GONE,
        JobEvent.FORBIDDEN: _FORBIDDEN,
        JobEvent.FAILED: _POLLED,
        JobEvent.SOURCE_FAILED: _MISSING,
        JobEvent.SHOWN: _MISSING,
        JobEvent.CLOCK_SET_BACK: _MISSING,
    },
    JobState.GONE: {
        JobEvent.TRACKED: _GONE,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _GONE,
        JobEvent.RUNNING: _GONE,
        JobEvent.ENDED: _GONE,
        JobEvent.QUIET: _POLLED,
        JobEvent.QUIET_ENDED: _SETTLING,
        JobEvent.SETTLED: _SEALED,
        JobEvent.LISTED: _POLLED,
        JobEvent.CHANGED: _POLLED,
        JobEvent.NOT_FOUND: _MISSING,  # the source fails, or lists the job
        JobEvent.NOT_FOUND_FOR_LONG: _GONE,
        JobEvent.FORBIDDEN: _FORBIDDEN,
        JobEvent.FAILED: _POLLED,
        JobEvent.SOURCE_FAILED: _GONE,
        JobEvent.SHOWN: _MISSING,
        JobEvent.CLOCK_SET_BACK: _GONE,
    },
    JobState.FORBIDDEN: {
        JobEvent.TRACKED: _FORBIDDEN,
        JobEvent.UNTRACKED: _UNTRACKED,
        JobEvent.RESYNCED: _FORBIDDEN,
        JobEvent.RUNNING: _FORBIDDEN,
        JobEvent.ENDED: _FORBIDDEN,
        JobEvent.QUIET: _POLLED,
        JobEvent.QUIET_ENDED: _SETTLING,
        JobEvent.SETTLED: _SEALED,
        JobEvent.LISTED: _POLLED,
        JobEvent.CHANGED: _POLLED,
        JobEvent.NOT_FOUND: _MISSING,
        JobEvent.FORBIDDEN: _FORBIDDEN,
        JobEvent.FAILED: _POLLED,
        JobEvent.SOURCE_FAILED: _FORBIDDEN,
        JobEvent.SHOWN: _FORBIDDEN,
        JobEvent.CLOCK_SET_BACK: _FORBIDDEN,
    },
    # Only `tracked` ends this state. If a failure is stored, it then determines the state until the next poll.
    JobState.UNTRACKED: dict.fromkeys(JobEvent, _UNTRACKED) | {JobEvent.TRACKED: _ACTIVE | _FAILING},
}
"""State → event → the states that can follow. A new job is active.

An event that is absent from a state cannot happen in it. For example, a job is missing before it is gone.
Several states can follow if the result depends on a column that the present state hides.
"""
