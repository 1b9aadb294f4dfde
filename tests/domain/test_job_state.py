"""The table of job states has no dead end."""

import pytest

from checkpointd.domain.job_state import TRANSITIONS, JobEvent, JobState

CHANGES = {
    (before, event, after)
    for before, events in TRANSITIONS.items()
    for event, following in events.items()
    for after in following
    if after != before
}
"""The transitions to another state."""


def _reachable(start: JobState) -> set[JobState]:
    """Return the states that can follow this one, after any number of events."""
    found = {start}
    while new := {after for before, _, after in CHANGES if before in found} - found:
        found |= new
    return found


def test_every_state_has_transitions() -> None:
    """The table has a row for each state, each event occurs, and each entry has a next state."""
    assert set(JobState) == set(TRANSITIONS)
    assert set(JobEvent) == {event for events in TRANSITIONS.values() for event in events}
    assert all(following for events in TRANSITIONS.values() for following in events.values())


@pytest.mark.parametrize("state", JobState)
def test_every_state_is_reachable_from_every_state(state: JobState) -> None:
    """A job in any state can become active again, and an active job can reach any state."""
    assert set(JobState) == _reachable(state)


def test_only_operators_untrack() -> None:
    """Only the event `untracked` leads to the state untracked, always, and only the event `tracked` ends it."""
    assert {(state, JobEvent.UNTRACKED) for state in set(JobState) - {JobState.UNTRACKED}} == {
        (before, event) for before, event, after in CHANGES if after is JobState.UNTRACKED
    }
    assert all({JobState.UNTRACKED} == events[JobEvent.UNTRACKED] for events in TRANSITIONS.values())
    assert {JobEvent.TRACKED} == {event for before, event, _ in CHANGES if before is JobState.UNTRACKED}


def test_only_settled_jobs_are_sealed() -> None:
    """Only the event `settled` seals a job, and never an active one."""
    sealing = {(before, event) for before, event, after in CHANGES if after is JobState.SEALED}
    assert {JobEvent.SETTLED} == {event for _, event in sealing}
    assert JobState.ACTIVE not in {before for before, _ in sealing}
