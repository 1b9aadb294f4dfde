"""A diff says what a save has to write, and tells the whole history: nothing erased, nothing told twice."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.checkpoint import METRICS, read_stored
from checkpointd.domain.diff import Change, Diff, StoredCheckpoint, Value, compare, values
from checkpointd.domain.listing import Listing, read_listing
from support.provider import JOB, checkpoint

examples = settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = checkpoint(1)["id"]


class Copy:
    """What is stored of one job: takes listings as the daemon's save does, and keeps the feed."""

    def __init__(self) -> None:
        self.known: dict[str, StoredCheckpoint] = {}
        self.absent: Sequence[str] = ()
        self.feed: list[Change] = []

    def compare(self, reading: Listing, *, complete: bool = True) -> Diff:
        """Compare a listing with what is stored."""
        return compare(self.known, reading, complete=complete, absent_before=self.absent)

    def take(self, reading: Listing, *, complete: bool = True) -> Diff:
        """Compare a listing and store what differs: null never overwrites."""
        diff = self.compare(reading, complete=complete)
        for item in diff.new:
            self.known[item.id] = StoredCheckpoint(known_of(values(item)), values(item), item.payload, missing=False)
        for item, _ in diff.updated:
            before = self.known[item.id]
            merged = {**before.values, **known_of(values(item))}
            self.known[item.id] = StoredCheckpoint(merged, values(item), item.payload, before.missing)
        for checkpoint_id, missing in diff.marked.items():
            self.known[checkpoint_id] = self.known[checkpoint_id]._replace(missing=missing)
        self.absent = diff.absent
        self.feed += diff.changes
        return diff


def known_of(said: dict[str, Value]) -> dict[str, Value]:
    """Return the values that are none of null."""
    return {name: value for name, value in said.items() if value is not None}


def item(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the checkpoint of step `number` with other fields; without `metrics` it has none."""
    return {**checkpoint(number), "metrics": {}, **fields}


def read(items: Iterable[dict[str, Any]]) -> Listing:
    """Read a listing of one page."""
    return read_listing(JOB, [[json.dumps(sent).encode() for sent in items]])


def told(diff: Diff) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return the changes of a diff without the checkpoint."""
    return [(c.kind, c.field, c.old_value, c.new_value) for c in diff.changes]


losses = st.none() | st.sampled_from([0.0, 0.5, 1.0, 1e-07, 2.0])
metrics = st.fixed_dictionaries({}, optional={"train_loss": losses, "full_valid_loss": losses, "reward": losses})
sent_items = st.builds(
    lambda number, values, model, unreadable: item(
        number, metrics=values, fine_tuned_model_checkpoint=model, step_number="x" if unreadable else number
    ),
    st.integers(1, 4),
    metrics,
    st.sampled_from(["ft:a", "ft:a:v1.0"]),
    st.sampled_from([False, False, False, True]),
)
nameless = st.sampled_from([False, False, False, False, True]).map(lambda odd: [item(9, id=None)] if odd else [])
listings = st.tuples(
    st.builds(lambda items, odd: items + odd, st.lists(sent_items, max_size=5), nameless),
    st.sampled_from([True, True, True, False]),
)
histories = st.lists(listings, max_size=8)


def text(value: Value) -> str | None:
    """Return a value as the feed has it."""
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@examples
@given(histories)
def test_applied_once_nothing_is_left(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """A listing compared again after it was stored has nothing to write, and nothing to tell."""
    copy = Copy()
    for items, complete in history:
        copy.take(read(items), complete=complete)
        assert Diff(absent=list(copy.absent)) == copy.compare(read(items), complete=False)
        again = copy.compare(read(items))
        assert ([], []) == (again.new, again.updated)
        assert {"missing"} >= {change.kind for change in again.changes}
    items = history[-1][0] if history else []
    for _ in range(2):
        copy.take(read(items))
    assert Diff() == copy.compare(read(items))


@examples
@given(histories)
def test_null_never_overwrites(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """What is stored is, value by value, the last that was not null, and no row is ever gone."""
    copy = Copy()
    expected: dict[str, dict[str, Value]] = {}
    for items, complete in history:
        reading = read(items)
        copy.take(reading, complete=complete)
        for listed in reading.checkpoints:
            expected.setdefault(listed.id, {}).update(known_of(values(listed)))
        assert expected == {checkpoint_id: known.values for checkpoint_id, known in copy.known.items()}


@examples
@given(histories)
def test_the_feed_is_the_whole_history(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """From the first item and the changes alone follows every item as received; no step is told twice or left out."""
    copy = Copy()
    told_so_far: dict[str, dict[str, str | None]] = {}
    for items, complete in history:
        reading = read(items)
        diff = copy.take(reading, complete=complete)
        for new in diff.new:
            told_so_far[new.id] = {name: text(value) for name, value in values(new).items()}
        for change in diff.changes:
            if change.field:
                state = told_so_far[change.checkpoint_id]
                assert state.get(change.field) == change.old_value != change.new_value
                assert ("regressed" if change.new_value is None else "changed") == change.kind
                state[change.field] = change.new_value
        for listed in reading.checkpoints:
            assert {k: text(v) for k, v in known_of(values(listed)).items()} == {
                k: v for k, v in told_so_far[listed.id].items() if v is not None
            }
    assert Counter(list(copy.known)) == Counter(c.checkpoint_id for c in copy.feed if c.kind == "new")


@examples
@given(histories)
def test_missing_is_lacking_twice(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """Missing is what two complete listings in a row lacked; one that cannot be told apart might be any checkpoint."""
    copy = Copy()
    lacked: Counter[str] = Counter()
    missing: set[str] = set()
    for items, complete in history:
        ids = {sent["id"] for sent in items}
        readable = {listed.id for listed in read(items).checkpoints}
        before = set(copy.known)
        copy.take(read(items), complete=complete)
        lacked -= Counter({checkpoint_id: lacked[checkpoint_id] for checkpoint_id in missing & readable})
        missing -= readable
        if complete:
            for checkpoint_id in before:
                lacked[checkpoint_id] = 0 if checkpoint_id in ids or None in ids else lacked[checkpoint_id] + 1
            missing |= {checkpoint_id for checkpoint_id in before if lacked[checkpoint_id] == 2}
        else:  # what a listing that broke off showed was not absent
            lacked.update({checkpoint_id: -lacked[checkpoint_id] for checkpoint_id in (before & ids) - missing})
        assert missing == {checkpoint_id for checkpoint_id, known in copy.known.items() if known.missing}
    for checkpoint_id in copy.known:
        kinds = [c.kind for c in copy.feed if c.checkpoint_id == checkpoint_id and c.kind in {"missing", "returned"}]
        assert ["missing", "returned"] * (len(kinds) // 2) == kinds[: len(kinds) // 2 * 2]


@examples
@given(histories, st.lists(sent_items, max_size=5, unique_by=lambda sent: sent["id"]), st.randoms())
def test_order_does_not_matter(
    history: list[tuple[list[dict[str, Any]], bool]], items: list[dict[str, Any]], random: Any
) -> None:
    """The same items in another order differ in the same way."""
    copy = Copy()
    for earlier, complete in history:
        copy.take(read(earlier), complete=complete)
    expected = copy.compare(read(items))
    shuffled = random.sample(items, len(items))
    actual = copy.compare(read(shuffled))
    assert sorted(map(repr, expected.changes)) == sorted(map(repr, actual.changes))
    assert sorted(map(repr, expected.new)) == sorted(map(repr, actual.new))
    assert sorted(map(repr, expected.updated)) == sorted(map(repr, actual.updated))
    assert (expected.marked, set(expected.absent)) == (actual.marked, set(actual.absent))


def test_new_once() -> None:
    """A checkpoint listed for the first time is one `new` change, and no change of its values."""
    copy = Copy()
    assert [("new", None, None, None)] == told(copy.take(read([item(metrics={"train_loss": 0.5})])))
    assert [] == told(copy.take(read([item(metrics={"train_loss": 0.5})])))


def test_there_and_back_is_two_changes() -> None:
    """A value that goes from A to B and back to A is two changes."""
    copy = Copy()
    copy.take(read([item(metrics={"train_loss": 1})]))
    there = copy.take(read([item(metrics={"train_loss": 2})]))
    back = copy.take(read([item(metrics={"train_loss": 1})]))
    assert [("changed", "train_loss", "1", "2")] == told(there)
    assert [("changed", "train_loss", "2", "1")] == told(back)


@pytest.mark.parametrize("gone", [{"train_loss": None}, {}, None])
def test_null_after_a_value_is_told_once(gone: dict[str, None] | None) -> None:
    """A value that becomes null or absent is one `regressed`; staying so is none, and the value stays stored."""
    copy = Copy()
    copy.take(read([item(metrics={"train_loss": 0.5})]))
    assert [("regressed", "train_loss", "0.5", None)] == told(copy.take(read([item(metrics=gone)])))
    for other in ({}, {"train_loss": None}, {"step": 1, "train_loss": None}):
        assert "train_loss" not in {change.field for change in copy.take(read([item(metrics=other)])).changes}
    assert 0.5 == copy.known[ID].values["train_loss"]
    assert [("changed", "train_loss", None, "0.5")] == [
        change for change in told(copy.take(read([item(metrics={"train_loss": 0.5})]))) if change[1] == "train_loss"
    ]


def test_first_value_later() -> None:
    """A metric that comes after its checkpoint, with a column or without, is a change from nothing."""
    copy = Copy()
    copy.take(read([item()]))
    diff = copy.take(read([item(metrics={"full_valid_loss": 0.25, "reward": 3})]))
    assert [("changed", "full_valid_loss", None, "0.25"), ("changed", "extra_metrics.reward", None, "3")] == told(diff)
    assert 1 == diff.changed


def test_bytes_are_not_values() -> None:
    """An item written otherwise, with equal values, is stored anew and no change."""
    copy = Copy()
    copy.take(read([item(metrics={"step": 100, "train_loss": 1})]))
    other = {**item(metrics={"train_loss": 1.0, "step": 100.0}), "note": "x"}
    diff = copy.take(read([dict(reversed(other.items()))]))
    assert [] == diff.changes
    assert [(ID, False)] == [(updated.id, changed) for updated, changed in diff.updated]
    assert Diff() == copy.take(read([dict(reversed(other.items()))]))


def test_nan_regresses_once() -> None:
    """NaN in place of a value is one `regressed`, though NaN differs from itself."""
    copy = Copy()
    copy.take(read([item(metrics={"train_loss": 0.5})]))
    nan = read([item(metrics={"train_loss": float("nan")})])
    assert [("regressed", "train_loss", "0.5", None)] == told(copy.take(nan))
    assert Diff() == copy.take(nan)


@pytest.mark.parametrize(
    ("expected", "field", "value"),
    [
        ("ft:gpt-4.0:x-1.0", "fine_tuned_model_checkpoint", "ft:gpt-4.0:x-1.0"),
        ("1721764999", "created_at", 1_721_764_999),
        ("9223372036854775807", "step_number", 2**63 - 1),
    ],
)
def test_words_of_a_field(expected: str, field: str, value: Any) -> None:
    """The feed shows a text as it is, to its last `.0`, and a whole number with all its digits."""
    copy = Copy()
    copy.take(read([item()]))
    diff = copy.take(read([item(**{field: value})]))
    assert [("changed", field, str(checkpoint(1)[field]), expected)] == told(diff)


@pytest.mark.parametrize(
    ("expected", "value"),
    [("100", 100.0), ("0", 0), ("-1.5", -1.5), ("0.1", 0.1), ("1e-07", 1e-7), ("3.4570693969726562e-06",) * 2],
)
def test_words_of_a_metric(expected: str, value: float | str) -> None:
    """The feed shows a metric as PostgreSQL does, and so that it can be read back exactly."""
    copy = Copy()
    copy.take(read([item()]))
    diff = copy.take(read([item(metrics={"train_loss": float(value)})]))
    assert [("changed", "train_loss", None, expected)] == told(diff)


@pytest.mark.parametrize("name", METRICS)
def test_every_column_is_compared(name: str) -> None:
    """Each of the seven metrics is compared under its column's name."""
    copy = Copy()
    copy.take(read([item(metrics=dict.fromkeys(METRICS, 1))]))
    diff = copy.take(read([item(metrics={**dict.fromkeys(METRICS, 1), name: 2})]))
    assert [("changed", name, "1", "2")] == told(diff)


def test_stored_value_that_is_wrong_is_mended() -> None:
    """A stored value that differs from an item that did not change is overwritten and told, once."""
    copy = Copy()
    listed = read([item(metrics={"train_loss": 0.5})])
    copy.take(listed)
    copy.known[ID] = copy.known[ID]._replace(values={**copy.known[ID].values, "train_loss": 0.75})
    assert [("changed", "train_loss", "0.75", "0.5")] == told(copy.take(listed))
    assert Diff() == copy.take(listed)


def test_only_the_second_complete_listing_in_a_row_tells() -> None:
    """The first complete listing without a checkpoint awaits the second; broken-off ones do not count."""
    copy = Copy()
    both, one = read([item(1), item(2)]), read([item(2)])
    copy.take(both)
    first = copy.take(one)
    assert ([ID], {}, []) == (first.absent, first.marked, first.changes)
    assert Diff(absent=[ID]) == copy.take(one, complete=False)
    second = copy.take(one)
    assert ([], {ID: True}, [("missing", None, None, None)]) == (second.absent, second.marked, told(second))
    assert Diff() == copy.take(one)


def test_listed_again_in_between_starts_over() -> None:
    """A checkpoint that is listed between two listings that lack it is not missing."""
    copy = Copy()
    both, one = read([item(1), item(2)]), read([item(2)])
    for reading in (both, one, both, one):
        copy.take(reading)
    copy.take(both, complete=False)
    copy.take(one)
    assert {"new"} == {change.kind for change in copy.feed}


def test_returned_with_another_value() -> None:
    """A missing checkpoint that is listed again has returned, and its changed values are changes as well."""
    copy = Copy()
    for items in ([item()], [], []):
        copy.take(read(items))
    diff = copy.take(read([item(metrics={"train_loss": 1})]))
    assert [("returned", None, None, None), ("changed", "train_loss", None, "1")] == told(diff)
    assert ({ID: False}, 1) == (diff.marked, diff.changed)


def test_reject_protects_its_checkpoint() -> None:
    """A checkpoint whose item cannot be read is listed: it is never missing, others are."""
    copy = Copy()
    copy.take(read([item(1), item(2)]))
    unreadable = read([item(1, step_number="1")])
    for _ in range(3):
        copy.take(unreadable)
    assert {ID: False, checkpoint(2)["id"]: True} == {name: known.missing for name, known in copy.known.items()}


@pytest.mark.parametrize(
    "odd", [item(9, id=None), item(9, object="fine_tuning.job.event")], ids=["without an id", "of another type"]
)
def test_what_cannot_be_told_apart_protects_all(odd: dict[str, Any]) -> None:
    """While a listing has an item that might be any checkpoint, or is no list of checkpoints, none goes missing."""
    copy = Copy()
    copy.take(read([item(1), item(2)]))
    for _ in range(3):
        copy.take(read([odd]))
    assert not any(known.missing for known in copy.known.values())


def test_last_of_doubled_items_counts() -> None:
    """Of two items with one id in a listing the last is compared, and told once."""
    copy = Copy()
    diff = copy.take(read([item(metrics={"train_loss": 1}), item(metrics={"train_loss": 2})]))
    assert [("new", None, None, None)] == told(diff)
    assert 2.0 == copy.known[ID].values["train_loss"]


def test_read_back_as_received() -> None:
    """An item read again from its stored payload compares as equal, with a flaw too."""
    copy = Copy()
    flawed = read([item(metrics={"train_loss": float("inf"), "reward": 1})])
    copy.take(flawed)
    stored = read_stored(copy.known[ID].payload, JOB)
    assert stored is not None
    copy.known[ID] = copy.known[ID]._replace(received=values(stored))
    assert Diff() == copy.compare(flawed)
