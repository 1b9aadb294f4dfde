"""The steps of a history, and the Hypothesis strategies that make up histories of them."""

from typing import NamedTuple

from hypothesis import strategies as st

from model.world import (
    ABSENT,
    DAMAGES,
    METRICS,
    NOT_FINITE,
    STUCK_CURSOR,
    Damage,
    Duplicate,
    Edit,
    Fault,
    Publish,
    Reorder,
    Restore,
    SetValue,
    Withdraw,
)
from support.spoilt import FAULTS
from support.wire import SAVE


class Resync(NamedTuple):
    """A person requests a resync of the job."""


class ReportStatus(NamedTuple):
    """The job list reports a status, and a daemon reads it."""

    status: str


class Poll(NamedTuple):
    """A daemon polls the job."""

    by: str = "A"
    faults: tuple[Fault, ...] = ()
    edits: tuple[tuple[int, Edit | Resync], ...] = ()
    """What happens before the page of this index is sent."""
    cut: int | None = None
    """The message to PostgreSQL whose answer is lost, by its number or as SAVE; None if no answer is lost."""


class Stop(NamedTuple):
    """A daemon is stopped during a poll, and started again.

    It is stopped while it waits for the page of index `page`, or otherwise `turns` turns of the event loop after the
    poll began. If `cancel_after` is not None, what it still does so many turns later is cancelled.
    """

    by: str
    page: int | None
    turns: int
    cancel_after: int | None
    faults: tuple[Fault, ...] = ()


class Race(NamedTuple):
    """Both daemons look for due jobs at the same time."""

    faults: tuple[Fault, ...] = ()


class Overtake(NamedTuple):
    """The lease of A expires while A waits for a page. B polls, and ends before A, or after it if `last`."""

    page: int
    edits: tuple[Edit, ...]
    last: bool


Step = Edit | Resync | ReportStatus | Poll | Stop | Race | Overtake

_indexes = st.integers(0, 7)
_values = st.sampled_from([0.5, 0.25, 0, 1, 1.0, 1e-7, 123456.75, None, None, None, ABSENT, ABSENT, NOT_FINITE])
_edits: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Publish, count=st.integers(1, 7), at=st.sampled_from([0, 0, 0, 1, 4])),
    st.builds(Withdraw, count=st.integers(1, 4), at=_indexes),
    st.builds(Restore, at=_indexes),
    st.builds(Duplicate, at=_indexes),
    st.builds(SetValue, at=_indexes, field=st.sampled_from(METRICS), value=_values),
    st.builds(SetValue, at=st.integers(0, 2), field=st.sampled_from(METRICS[:2]), value=_values),
    st.builds(SetValue, at=_indexes, field=st.just("step_number"), value=st.integers(1, 9)),
    st.builds(SetValue, at=_indexes, field=st.just("fine_tuned_model_checkpoint"), value=st.sampled_from(["a", "b"])),
    st.builds(Damage, at=_indexes, damage=st.sampled_from([None, None, *DAMAGES])),
)
_reorders = st.builds(Reorder, turn=_indexes)

_daemons = st.sampled_from(["A", "B"])
_pages = st.integers(0, 3)
# A poll takes some hundreds of turns of the event loop. An early turn is as likely as a late one.
_turns = st.integers(0, 24).map(lambda n: round(1.37**n) - 1)
_cancel_after = st.one_of(st.none(), _turns)
_faults = st.lists(
    st.builds(
        Fault, page=st.integers(0, 4), kind=st.sampled_from([*FAULTS, STUCK_CURSOR]), times=st.sampled_from([1, 9])
    ),
    max_size=2,
).map(tuple)
_polls = st.builds(
    Poll,
    by=_daemons,
    faults=st.one_of(st.just(()), _faults),
    edits=st.lists(st.tuples(st.integers(0, 4), st.one_of(_edits, st.builds(Resync))), max_size=2).map(tuple),
    cut=st.one_of(st.none(), st.none(), st.none(), st.just(SAVE), st.integers(1, 24)),
)
# Every field is given: Hypothesis makes up those of a NamedTuple that are not, even if they have a default.
_other_actions = [
    st.builds(Stop, by=_daemons, page=st.none(), turns=_turns, cancel_after=_cancel_after, faults=_faults),
    st.builds(Stop, by=_daemons, page=_pages, turns=st.just(0), cancel_after=_cancel_after, faults=st.just(())),
    st.builds(Race, faults=_faults),
    st.builds(Overtake, page=_pages, edits=st.lists(_edits, max_size=2).map(tuple), last=st.booleans()),
    st.builds(Resync),
    st.builds(ReportStatus, status=st.sampled_from(["running", "paused", "succeeded", "unheard-of"])),
]
_actions = st.sampled_from([*[_polls] * 6, *_other_actions]).flatmap(lambda chosen: chosen)
_rounds = st.tuples(st.lists(st.one_of(_edits, _reorders), max_size=3), _actions)


def _as_history(first: int, rounds: list[tuple[list[Edit], Step]]) -> list[Step]:
    """Return the steps of a history: some first checkpoints, then rounds of changes of the list and an action."""
    return [Publish(first), *(step for edits, action in rounds for step in (*edits, action))]


histories: st.SearchStrategy[list[Step]] = st.builds(
    _as_history, st.integers(0, 7), st.lists(_rounds, min_size=1, max_size=12)
)
