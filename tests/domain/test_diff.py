"""A diff is what a save has to write. It erases nothing, and the feed gets each change exactly once."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain import diff as diff_module
from checkpointd.domain.checkpoint import METRICS, OPENAI_READER
from checkpointd.domain.diff import Change, Diff, StoredCheckpoint, Value, compare, values
from checkpointd.domain.listing import Listing, read_listing
from support.examples import tries
from support.provider import JOB, checkpoint

examples = settings(max_examples=tries(70), deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = checkpoint(1)["id"]


class StoredJob:
    """The stored checkpoints of one job and its feed, which listings update as a save does."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredCheckpoint] = {}
        self.absent: Sequence[str] = ()
        self.feed: list[Change] = []

    def compare(self, listing: Listing, *, complete: bool = True) -> Diff:
        """Compare a listing with the stored checkpoints."""
        return compare(self.stored, listing, complete=complete, absent_before=self.absent)

    def save(self, listing: Listing, *, complete: bool = True) -> Diff:
        """Compare a listing, and store the differences. A null overwrites nothing."""
        diff = self.compare(listing, complete=complete)
        for item in diff.new:
            self.stored[item.id] = StoredCheckpoint(non_null(values(item)), values(item), missing=False)
        for item in diff.updated:
            before = self.stored[item.id]
            merged = {**before.values, **non_null(values(item))}
            self.stored[item.id] = StoredCheckpoint(merged, values(item), before.missing)
        for checkpoint_id, missing in diff.marked.items():
            self.stored[checkpoint_id] = self.stored[checkpoint_id]._replace(missing=missing)
        self.absent = diff.absent
        self.feed += diff.changes
        return diff


def non_null(values: dict[str, Value]) -> dict[str, Value]:
    """Return the values that are not null."""
    return {name: value for name, value in values.items() if value is not None}


def item(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the checkpoint of step `number` with these fields, and without metrics unless they are given."""
    return {**checkpoint(number), "metrics": {}, **fields}


def read(items: Iterable[dict[str, Any]]) -> Listing:
    """Read a listing of one page."""
    return read_listing(JOB, [[json.dumps(sent).encode() for sent in items]])


def changes(diff: Diff) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return the changes of a diff without the checkpoint's id."""
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
    """Return a value as the feed shows it."""
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@examples
@given(histories)
def test_a_saved_listing_has_no_differences(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """A listing that is compared again after it was saved has no differences, and no changes but `missing`."""
    job = StoredJob()
    for items, complete in history:
        job.save(read(items), complete=complete)
        assert Diff(absent=list(job.absent)) == job.compare(read(items), complete=False)
        again = job.compare(read(items))
        assert ([], []) == (again.new, again.updated)
        assert {"missing"} >= {change.kind for change in again.changes}
    items = history[-1][0] if history else []
    for _ in range(2):
        job.save(read(items))
    assert Diff() == job.compare(read(items))


@examples
@given(histories)
def test_null_never_overwrites(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """Each stored value is the last one that was not null, and no checkpoint is deleted."""
    job = StoredJob()
    expected: dict[str, dict[str, Value]] = {}
    for items, complete in history:
        listing = read(items)
        job.save(listing, complete=complete)
        for listed in listing.checkpoints:
            expected.setdefault(listed.id, {}).update(non_null(values(listed)))
        assert expected == {checkpoint_id: known.values for checkpoint_id, known in job.stored.items()}


@examples
@given(histories)
def test_the_feed_is_complete(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """Every item as received follows from its first version and the changes, without a repeated or omitted one."""
    job = StoredJob()
    replayed: dict[str, dict[str, str | None]] = {}
    for items, complete in history:
        listing = read(items)
        diff = job.save(listing, complete=complete)
        for new in diff.new:
            replayed[new.id] = {name: text(value) for name, value in values(new).items()}
        for change in diff.changes:
            if change.field:
                state = replayed[change.checkpoint_id]
                assert state.get(change.field) == change.old_value != change.new_value
                assert ("regressed" if change.new_value is None else "changed") == change.kind
                state[change.field] = change.new_value
        for listed in listing.checkpoints:
            assert {k: text(v) for k, v in non_null(values(listed)).items()} == {
                k: v for k, v in replayed[listed.id].items() if v is not None
            }
    assert Counter(list(job.stored)) == Counter(c.checkpoint_id for c in job.feed if c.kind == "new")


@examples
@given(histories)
def test_missing_after_two_complete_listings(history: list[tuple[list[dict[str, Any]], bool]]) -> None:
    """A checkpoint is missing if two complete listings in a row lack it, and have no item without an id."""
    job = StoredJob()
    absences: Counter[str] = Counter()
    missing: set[str] = set()
    for items, complete in history:
        ids = {sent["id"] for sent in items}
        readable = {listed.id for listed in read(items).checkpoints}
        before = set(job.stored)
        job.save(read(items), complete=complete)
        absences -= Counter({checkpoint_id: absences[checkpoint_id] for checkpoint_id in missing & readable})
        missing -= readable
        if complete:
            for checkpoint_id in before:
                absences[checkpoint_id] = 0 if checkpoint_id in ids or None in ids else absences[checkpoint_id] + 1
            missing |= {checkpoint_id for checkpoint_id in before if absences[checkpoint_id] == 2}
        else:  # a checkpoint in an incomplete listing was not absent
            absences.update({checkpoint_id: -absences[checkpoint_id] for checkpoint_id in (before & ids) - missing})
        assert missing == {checkpoint_id for checkpoint_id, known in job.stored.items() if known.missing}
    for checkpoint_id in job.stored:
        kinds = [c.kind for c in job.feed if c.checkpoint_id == checkpoint_id and c.kind in {"missing", "returned"}]
        assert ["missing", "returned"] * (len(kinds) // 2) == kinds[: len(kinds) // 2 * 2]


@examples
@given(histories, st.lists(sent_items, max_size=5, unique_by=lambda sent: sent["id"]), st.randoms())
def test_order_does_not_matter(
    history: list[tuple[list[dict[str, Any]], bool]], items: list[dict[str, Any]], random: Any
) -> None:
    """The same items in another order have the same differences."""
    job = StoredJob()
    for earlier, complete in history:
        job.save(read(earlier), complete=complete)
    expected = job.compare(read(items))
    shuffled = random.sample(items, len(items))
    actual = job.compare(read(shuffled))
    assert sorted(map(repr, expected.changes)) == sorted(map(repr, actual.changes))
    assert sorted(map(repr, expected.new)) == sorted(map(repr, actual.new))
    assert sorted(map(repr, expected.updated)) == sorted(map(repr, actual.updated))
    assert (expected.marked, set(expected.absent)) == (actual.marked, set(actual.absent))


def test_new_once() -> None:
    """A checkpoint that is listed for the first time is one change `new`, without changes of its values."""
    job = StoredJob()
    assert [("new", None, None, None)] == changes(job.save(read([item(metrics={"train_loss": 0.5})])))
    assert [] == changes(job.save(read([item(metrics={"train_loss": 0.5})])))


def test_there_and_back_is_two_changes() -> None:
    """A value that goes from A to B and back to A is two changes."""
    job = StoredJob()
    job.save(read([item(metrics={"train_loss": 1})]))
    there = job.save(read([item(metrics={"train_loss": 2})]))
    back = job.save(read([item(metrics={"train_loss": 1})]))
    assert [("changed", "train_loss", "1", "2")] == changes(there)
    assert [("changed", "train_loss", "2", "1")] == changes(back)


@pytest.mark.parametrize("gone", [{"train_loss": None}, {}, None])
def test_null_after_a_value_is_one_change(gone: dict[str, None] | None) -> None:
    """A value that becomes null or absent is one change `regressed`. It stays stored; later nulls change nothing."""
    job = StoredJob()
    job.save(read([item(metrics={"train_loss": 0.5})]))
    assert [("regressed", "train_loss", "0.5", None)] == changes(job.save(read([item(metrics=gone)])))
    for later in ({}, {"train_loss": None}, {"step": 1, "train_loss": None}):
        assert "train_loss" not in {change.field for change in job.save(read([item(metrics=later)])).changes}
    assert 0.5 == job.stored[ID].values["train_loss"]
    assert [("changed", "train_loss", None, "0.5")] == [
        change for change in changes(job.save(read([item(metrics={"train_loss": 0.5})]))) if change[1] == "train_loss"
    ]


def test_first_value_later() -> None:
    """A metric that is sent later than its checkpoint, with a column or without, is a change from null."""
    job = StoredJob()
    job.save(read([item()]))
    diff = job.save(read([item(metrics={"full_valid_loss": 0.25, "reward": 3})]))
    assert [("changed", "full_valid_loss", None, "0.25"), ("changed", "extra_metrics.reward", None, "3")] == changes(
        diff
    )
    assert 1 == diff.changed


def test_other_bytes_with_equal_values() -> None:
    """An item with other bytes but equal values has no differences."""
    job = StoredJob()
    job.save(read([item(metrics={"step": 100, "train_loss": 1})]))
    other = {**item(metrics={"train_loss": 1.0, "step": 100.0}), "note": "x"}
    assert Diff() == job.save(read([dict(reversed(other.items()))]))


def test_nan_regresses_once() -> None:
    """NaN in place of a value is one change `regressed`, although NaN is not equal to itself."""
    job = StoredJob()
    job.save(read([item(metrics={"train_loss": 0.5})]))
    nan = read([item(metrics={"train_loss": float("nan")})])
    assert [("regressed", "train_loss", "0.5", None)] == changes(job.save(nan))
    assert Diff() == job.save(nan)


@pytest.mark.parametrize(
    ("expected", "field", "value"),
    [
        ("ft:gpt-4.0:x-1.0", "fine_tuned_model_checkpoint", "ft:gpt-4.0:x-1.0"),
        ("1721764999", "created_at", 1_721_764_999),
        ("9223372036854775807", "step_number", 2**63 - 1),
    ],
)
def test_fields_in_the_feed(expected: str, field: str, value: Any) -> None:
    """The feed shows a string as it is, even if it ends with `.0`, and an integer with all its digits."""
    job = StoredJob()
    job.save(read([item()]))
    diff = job.save(read([item(**{field: value})]))
    assert [("changed", field, str(checkpoint(1)[field]), expected)] == changes(diff)


@pytest.mark.parametrize(
    ("expected", "value"),
    [("100", 100.0), ("0", 0), ("-1.5", -1.5), ("0.1", 0.1), ("1e-07", 1e-7), ("3.4570693969726562e-06",) * 2],
)
def test_metrics_in_the_feed(expected: str, value: float | str) -> None:
    """The feed shows a metric as PostgreSQL does, with all digits that reading it back needs."""
    job = StoredJob()
    job.save(read([item()]))
    diff = job.save(read([item(metrics={"train_loss": float(value)})]))
    assert [("changed", "train_loss", None, expected)] == changes(diff)


@pytest.mark.parametrize("name", METRICS)
def test_every_column_is_compared(name: str) -> None:
    """Each of the seven metrics is compared, and named after its column."""
    job = StoredJob()
    job.save(read([item(metrics=dict.fromkeys(METRICS, 1))]))
    diff = job.save(read([item(metrics={**dict.fromkeys(METRICS, 1), name: 2})]))
    assert [("changed", name, "1", "2")] == changes(diff)


def test_wrong_stored_value_is_corrected() -> None:
    """A stored value that differs from an unchanged item is overwritten, with one change."""
    job = StoredJob()
    listed = read([item(metrics={"train_loss": 0.5})])
    job.save(listed)
    job.stored[ID] = job.stored[ID]._replace(values={**job.stored[ID].values, "train_loss": 0.75})
    assert [("changed", "train_loss", "0.75", "0.5")] == changes(job.save(listed))
    assert Diff() == job.save(listed)


def test_missing_after_the_second_complete_listing() -> None:
    """A checkpoint is missing only after the second complete listing without it. Incomplete ones do not count."""
    job = StoredJob()
    both, one = read([item(1), item(2)]), read([item(2)])
    job.save(both)
    first = job.save(one)
    assert ([ID], {}, []) == (first.absent, first.marked, first.changes)
    assert Diff(absent=[ID]) == job.save(one, complete=False)
    second = job.save(one)
    assert ([], {ID: True}, [("missing", None, None, None)]) == (second.absent, second.marked, changes(second))
    assert Diff() == job.save(one)


def test_listed_in_between_is_not_missing() -> None:
    """A checkpoint that is listed between two listings without it is not missing."""
    job = StoredJob()
    both, one = read([item(1), item(2)]), read([item(2)])
    for listing in (both, one, both, one):
        job.save(listing)
    job.save(both, complete=False)
    job.save(one)
    assert {"new"} == {change.kind for change in job.feed}


def test_returned_with_another_value() -> None:
    """A missing checkpoint that is listed again is `returned`, and its changed values are changes, too."""
    job = StoredJob()
    for items in ([item()], [], []):
        job.save(read(items))
    diff = job.save(read([item(metrics={"train_loss": 1})]))
    assert [("returned", None, None, None), ("changed", "train_loss", None, "1")] == changes(diff)
    assert ({ID: False}, 1) == (diff.marked, diff.changed)


def test_reject_protects_its_checkpoint() -> None:
    """A checkpoint whose item cannot be read counts as listed, and is not missing; other absent ones are."""
    job = StoredJob()
    job.save(read([item(1), item(2)]))
    unreadable = read([item(1, step_number="1")])
    for _ in range(3):
        job.save(unreadable)
    assert {ID: False, checkpoint(2)["id"]: True} == {name: known.missing for name, known in job.stored.items()}


@pytest.mark.parametrize(
    "odd", [item(9, id=None), item(9, object="fine_tuning.job.event")], ids=["without an id", "of another type"]
)
def test_an_item_without_an_id_protects_all(odd: dict[str, Any]) -> None:
    """If a listing has an item without an id or of another type, no checkpoint goes missing."""
    job = StoredJob()
    job.save(read([item(1), item(2)]))
    for _ in range(3):
        job.save(read([odd]))
    assert not any(known.missing for known in job.stored.values())


def test_last_of_repeated_items_counts() -> None:
    """Of two items with the same id in a listing, the last one is compared, with one change."""
    job = StoredJob()
    diff = job.save(read([item(metrics={"train_loss": 1}), item(metrics={"train_loss": 2})]))
    assert [("new", None, None, None)] == changes(diff)
    assert 2.0 == job.stored[ID].values["train_loss"]


def test_read_back_as_received() -> None:
    """An item that is read again from its stored payload has no differences, even with a flaw."""
    job = StoredJob()
    flawed = read([item(metrics={"train_loss": float("inf"), "reward": 1})])
    job.save(flawed)
    stored = OPENAI_READER.read_stored(flawed.checkpoints[0].payload, JOB)
    assert stored is not None
    job.stored[ID] = job.stored[ID]._replace(received=values(stored))
    assert Diff() == job.compare(flawed)


def test_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many changes no further checkpoint is compared, and nothing becomes missing."""
    monkeypatch.setattr(diff_module, "MOST_CHANGES", 3)
    listing = read([item(number) for number in range(1, 6)])
    stored = {"gone": StoredCheckpoint({"step_number": 9}, {"step_number": 9}, missing=False)}
    diff = compare(stored, listing, complete=True, absent_before=["gone"])
    assert (True, 3, {}) == (diff.is_cut_off, len(diff.new), diff.marked)
    assert ["gone"] == diff.absent
    assert not compare({}, read([item(1), item(2)]), complete=True, absent_before=[]).is_cut_off
