"""The table of job states has no dead end, and its documents agree with it."""

import re

import pytest

from checkpointd.domain.job_state import TRANSITIONS, JobEvent, JobState
from support.paths import TOP

README = TOP / "daemon" / "README.md"
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


def _rows(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose first head is `head`."""
    (table,) = re.findall(rf"^\| {head} .*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def _words(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_document() -> None:
    """daemon/README.md draws each state, explains each event, and lists each transition to another state."""
    section = README.read_text(encoding="utf-8").split("\n## Job states\n")[1].split("\n## ")[0]
    drawn = re.findall(r"\w+", section.split("```")[1])
    assert set(JobState) <= set(drawn)
    assert {word for word in drawn if "_" in word} <= set(JobEvent)
    assert list(JobState) == [_words(row[0])[0] for row in _rows(section, "state")]
    assert list(JobEvent) == [_words(row[0])[0] for row in _rows(section, "event")]
    assert {
        (before, event, after)
        for row in _rows(section, "from")
        for before in _words(row[0])
        for after in _words(row[1])
        for event in _words(row[2])
    } == CHANGES
