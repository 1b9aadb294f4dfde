"""In a listing each item is a checkpoint or a reject, independently of the other items."""

import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain import listing as listing_module
from checkpointd.domain.checkpoint import ITEM_BYTES
from checkpointd.domain.listing import READER, Listing, content_digest, digest, read_listing
from checkpointd.domain.raw_item import REJECT_BYTES
from checkpointd.domain.reading import Reject
from checkpointd.provider.page import read_page
from support.examples import tries
from support.lists import raw_listing
from support.paths import DATA
from support.provider import JOB, checkpoint

examples = settings(max_examples=tries(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])

RECORDED = sorted((DATA / "recorded").glob("*.json"))
FOREIGN = b'{"object": "fine_tuning.job.event", "id": "ftevent-1", "created_at": 1, "level": "info", "message": "hi"}'


def raw(number: int, **fields: Any) -> bytes:
    """Return the bytes of the checkpoint of step `number`."""
    return json.dumps({**checkpoint(number), **fields}).encode()


def name(number: int) -> str:
    """Return the id of the checkpoint of step `number`."""
    return checkpoint(number)["id"]


def spoil(number: int, kind: str) -> tuple[bytes, str | None]:
    """Return an item that cannot be read, for a reason of this kind, and the id that can be read of it, or None."""
    return {
        "text": (raw(number, step_number="7"), name(number)),
        "half": (raw(number, step_number=1.5), name(number)),
        "other job": (raw(number, fine_tuning_job_id="ftjob-other"), name(number)),
        "doubled id": (raw(number)[:-1] + b', "id": "other"}', None),
        "doubled": (raw(number)[:-1] + b', "step_number": 0}', name(number)),
        "no id": (raw(number, id=None), None),
        "odd id": (raw(number, id="a b"), None),
        "not UTF-8": (raw(number)[:-1] + b', "step_number": "\xff"}', name(number)),
        "not an object": (b"%d" % number, None),
        "deep": (raw(number)[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", name(number)),
    }[kind]


kinds = st.sampled_from(
    ["text", "half", "other job", "doubled id", "doubled", "no id", "odd id", "not UTF-8", "not an object", "deep"]
)
plans = st.lists(st.tuples(st.integers(1, 30), st.none() | kinds), max_size=12, unique_by=lambda plan: plan[0]).filter(
    lambda plan: not plan or any(kind != "not an object" for _, kind in plan)
)  # a list of other values only is not a list of checkpoints


def cut(raws: list[bytes], ends: list[int]) -> list[list[bytes]]:
    """Return the items as pages that end at these positions."""
    bounds = sorted({0, len(raws), *(end for end in ends if end < len(raws))})
    return [raws[a:b] for a, b in pairwise(bounds)] or [[]]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_reads_recorded_answers(path: Path) -> None:
    """Every checkpoint of every recorded answer is read with its metrics, and none is rejected."""
    sent = json.loads(path.read_bytes())["data"]
    listing = read_listing(sent[0]["fine_tuning_job_id"], [read_page(path.read_bytes()).items])
    assert ([], None) == (listing.rejects, listing.foreign)
    assert [(item["id"], item["step_number"], item["metrics"]) for item in sent] == [
        (item.id, item.step_number, item.metrics) for item in listing.checkpoints
    ]


@examples
@given(plans, st.lists(st.integers(0, 12), max_size=3))
def test_each_item_is_a_checkpoint_or_a_reject(plan: list[tuple[int, str | None]], ends: list[int]) -> None:
    """Each item is a checkpoint, or a reject with its bytes and id. A bad item affects no other."""
    bad = {number: spoil(number, kind) for number, kind in plan if kind}
    raws = [bad[number][0] if kind else raw(number) for number, kind in plan]
    listing = read_listing(JOB, cut(raws, ends))
    assert [name(number) for number, kind in plan if not kind] == [item.id for item in listing.checkpoints]
    assert [bad[number] for number, kind in plan if kind] == [(r.raw, r.id) for r in listing.rejects]
    assert len(raws) == len(listing.checkpoints) + len(listing.rejects)


@examples
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_the_last_item_of_an_id_counts(sent: list[tuple[int, int]], ends: list[int]) -> None:
    """Of items with the same id the last one counts, within a page and across pages. Each id is there once."""
    raws = [raw(number, metrics={"train_loss": loss}) for number, loss in sent]
    listing = read_listing(JOB, cut(raws, ends))
    assert len({number for number, _ in sent}) == len(listing.checkpoints)
    assert {name(number): loss for number, loss in sent} == {i.id: i.metrics["train_loss"] for i in listing.checkpoints}


@examples
@given(plans, st.randoms(use_true_random=False), st.lists(st.integers(0, 12), max_size=3))
def test_order_and_pages_do_not_matter(plan: list[tuple[int, str | None]], random: Any, ends: list[int]) -> None:
    """The same items in another order and on other pages are the same checkpoints and rejects."""
    raws = [spoil(number, kind)[0] if kind else raw(number) for number, kind in plan]
    expected = read_listing(JOB, [raws])
    random.shuffle(raws)
    actual = read_listing(JOB, cut(raws, ends))
    assert sorted(expected.rejects, key=repr) == sorted(actual.rejects, key=repr)
    assert sorted(expected.checkpoints, key=repr) == sorted(actual.checkpoints, key=repr)


def test_differing_items_of_one_page_are_rejects() -> None:
    """Of differing items of a page with the same id, the earlier are rejects; on different pages they are not."""
    first, second = raw(7, metrics={"train_loss": 1}), raw(7, metrics={"train_loss": 2})
    listing = read_listing(JOB, [[first, second, second, raw(6)]])
    assert [{"train_loss": 2}, raw(6)] == [listing.checkpoints[0].metrics, listing.checkpoints[1].payload.encode()]
    assert [(first, name(7))] == [(reject.raw, reject.id) for reject in listing.rejects]
    assert [] == read_listing(JOB, [[first], [second]]).rejects
    assert [] == read_listing(JOB, [[first, first.replace(b", ", b",")]]).rejects


def test_item_with_a_flaw() -> None:
    """An item with NaN is a checkpoint without that metric, and also a reject with its bytes."""
    odd = raw(7, metrics={"train_loss": float("nan"), "valid_loss": 0.5})
    listing = read_listing(JOB, [[raw(8), odd, raw(6)]])
    assert [name(8), name(7), name(6)] == [item.id for item in listing.checkpoints]
    assert {"train_loss": None, "valid_loss": 0.5} == listing.checkpoints[1].metrics
    assert [Reject(odd, "metrics.train_loss: not finite", name(7), is_stored=True)] == listing.rejects
    assert 0 == listing.unreadable


def test_key_of_a_reject() -> None:
    """The key of a reject depends on its id and its reason only, and not on other bytes. Without an id it does."""

    def keys(*sent: bytes) -> set[bytes]:
        return {reject.key for raw in sent for reject in read_listing(JOB, [[raw]]).rejects}

    odd = [raw(7, metrics={"train_loss": float("nan"), "valid_loss": loss}, url=f"x{loss}") for loss in range(5)]
    assert 1 == len(keys(*odd))
    assert 3 == len(keys(odd[0], raw(8, created_at="x"), raw(7, created_at="x")))
    assert 1 == len(keys(raw(7, step_number="x", url="a"), raw(7, step_number="x", url="b")))
    assert 2 == len(keys(raw(7, id=None, url="a"), raw(7, id=None, url="b")))


def test_deep_nesting_affects_only_its_item() -> None:
    """An item that is nested too deeply is a reject with its id."""
    deep, known = spoil(7, "deep")
    listing = read_listing(JOB, [[raw(8), deep, raw(6)]])
    assert [name(8), name(6)] == [item.id for item in listing.checkpoints]
    assert [known] == [reject.id for reject in listing.rejects]


@examples
@given(st.integers(0, 3), st.lists(st.sampled_from([b"7", b"{}"]), max_size=2), st.integers(0, 2))
def test_page_of_foreign_items_is_not_read(page: int, others: list[bytes], position: int) -> None:
    """A page with items of another type and without checkpoints, and the pages after it, are not read."""
    pages = [[raw(10 * p + i + 1) for i in range(2)] for p in range(4)]
    pages[page] = others
    pages[page].insert(position, FOREIGN)
    listing = read_listing(JOB, pages)
    assert "fine_tuning.job.event" == listing.foreign
    assert [name(10 * p + i + 1) for p in range(page) for i in range(2)] == [item.id for item in listing.checkpoints]


@pytest.mark.parametrize("beside", [raw(1), raw(1, step_number="x")])
def test_foreign_item_among_checkpoints(beside: bytes) -> None:
    """An item of another type is a reject without an id if a checkpoint is on its page, even an unreadable one."""
    listing = read_listing(JOB, [[beside, FOREIGN], [raw(2)]])
    assert listing.foreign is None
    assert name(2) == listing.checkpoints[-1].id
    assert Reject(FOREIGN, "object: fine_tuning.job.event", None) == listing.rejects[-1]


def test_foreign_item_with_a_secret() -> None:
    """An item of another type that contains a secret is foreign, too, but its type is not repeated."""
    item = json.dumps({"object": "sk-canary", "id": "e1"}).encode()
    listing = read_listing(JOB, [[item]], lambda text: b"canary" in text)
    assert ([], [], "items of another type") == listing[:3]


@pytest.mark.parametrize(
    "untyped", [b'{"id": "ev-1"}', b"1", b'{"object": null, "id": "x"}', b'{"object": "", "id": "x"}', b'"no object"']
)
def test_item_without_a_type(untyped: bytes) -> None:
    """An item without a type is a reject without an id, because it may be any checkpoint."""
    listing = read_listing(JOB, [[untyped, raw(1)]])
    assert ([name(1)], None) == ([item.id for item in listing.checkpoints], listing.foreign)
    assert [(untyped, None)] == [(reject.raw, reject.id) for reject in listing.rejects]


def test_nothing_listed() -> None:
    """An empty page is an empty listing, and not a failure."""
    assert Listing([], [], None) == read_listing(JOB, [[]])


@examples
@given(plans, plans, st.lists(st.integers(0, 12), max_size=3))
def test_digest(plan: list[tuple[int, str | None]], other: list[tuple[int, str | None]], ends: list[int]) -> None:
    """Two listings have the same digest if and only if their pages have the same bytes in the same order."""
    raws, others = ([spoil(n, kind)[0] if kind else raw(n) for n, kind in p] for p in (plan, other))
    one, same, different = (raw_listing(*cut(items, ends)).bodies for items in (raws, list(raws), others))
    assert 32 == len(digest(one))
    assert digest(one) == digest(same)
    assert (raws == others) == (digest(one) == digest(different))


def test_digest_includes_the_reader() -> None:
    """The version of the reader is a part of the digest, and so is where each page ends."""
    assert sha256(READER + b"3:one" + b"3:two").digest() == digest([b"one", b"two"])
    assert digest([b"one", b"two"]) != digest([b"onetwo"])


def test_bad_copy_does_not_replace_a_good_one() -> None:
    """Of two items with the same id, the first is a checkpoint although the last cannot be read, which is a reject."""
    listing = read_listing(JOB, [[raw(1)], [raw(1, step_number="1")]])
    assert ([name(1)], [name(1)]) == (
        [item.id for item in listing.checkpoints],
        [reject.id for reject in listing.rejects],
    )


def reordered(value: Any, random: Any) -> Any:
    """Return a JSON value with the members of each object in another order, and whole numbers as 1 or 1.0."""
    if isinstance(value, dict):
        return {key: reordered(value[key], random) for key in random.sample(list(value), len(value))}
    if isinstance(value, float) and value.is_integer() and random.random() < 0.5:
        return int(value)
    return value


contents = st.dictionaries(
    st.integers(1, 9),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-7, 1e22])
            for name in ("train_loss", "full_valid_loss", "reward")
        },
    ),
    max_size=6,
)
"""The metrics of checkpoints, by step."""


def listing_of(content: dict[int, dict[str, float | None]]) -> Listing:
    """Return a listing of these checkpoints."""
    return read_listing(JOB, [[raw(number, metrics=metrics) for number, metrics in content.items()]])


@examples
@given(contents, st.lists(st.sampled_from([None, "text", "no id"]), max_size=2), st.randoms(use_true_random=False))
def test_content_does_not_depend_on_order_or_encoding(
    content: dict[int, dict[str, float | None]], bad: list[str | None], random: Any
) -> None:
    """Items, members, blanks, escapes, null instead of nothing, and hidden members do not count as content."""
    spoilt = [spoil(20 + place, kind)[0] for place, kind in enumerate(bad) if kind]
    raws = [raw(number, metrics=metrics) for number, metrics in content.items()] + spoilt
    others = []
    for number, metrics in content.items():
        shown = {name: value for name, value in metrics.items() if value is not None or random.random() < 0.5}
        item = {**checkpoint(number), "metrics": shown, "signed_url": f"https://host/?sig={random.random()}"}
        separators = random.choice([(",", ":"), (" , ", " : ")])
        text = json.dumps(reordered(item, random), separators=separators, indent=random.choice([None, 2]))
        others.append(text.replace("ftckpt", "\\u0066tckpt").encode())
    others += spoilt
    random.shuffle(others)
    assert content_digest(read_listing(JOB, [raws])) == content_digest(read_listing(JOB, cut(others, [1, 3])))


@examples
@given(contents, contents)
def test_other_content(one: dict[int, dict[str, float | None]], other: dict[int, dict[str, float | None]]) -> None:
    """Two listings have the same content if and only if all values that are not null are equal."""
    shown = [
        {step: {k: v for k, v in metrics.items() if v is not None} for step, metrics in content.items()}
        for content in (one, other)
    ]
    is_same = content_digest(listing_of(one)) == content_digest(listing_of(other))
    assert is_same == (shown[0] == shown[1])


@pytest.mark.parametrize(
    "field", [{"step_number": 8}, {"created_at": 5}, {"fine_tuned_model_checkpoint": "ft:b"}, {"id": "ftckpt_b"}]
)
def test_each_shown_value_is_content(field: dict[str, Any]) -> None:
    """Another value of any column is other content, as is an item more or less, or another reason of a reject."""
    digests = [
        content_digest(read_listing(JOB, [items]))
        for items in (
            [raw(7)],
            [raw(7, **field)],
            [raw(7), raw(6)],
            [],
            [raw(7), b'"no object"'],
            [raw(7), b'"no object"', b'"no object"'],
            [raw(7), spoil(6, "text")[0]],
            [raw(7), spoil(6, "other job")[0]],
        )
    ]
    assert len(digests) == len(set(digests))


# Large items, and many metrics


def test_item_that_is_too_large() -> None:
    """An item of more than 256 KiB is a reject with its id and its first bytes. So its checkpoint is not missing."""
    large = raw(1, extra="x" * ITEM_BYTES)
    ((read,), (reject,), *_) = read_listing(JOB, [[large, raw(2)]])
    assert (name(2), name(1), large[:REJECT_BYTES]) == (read.id, reject.id, reject.raw)
    assert f"larger than {ITEM_BYTES} bytes" == reject.reason


def test_metrics_of_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many metrics without a column, no further item is read. Those that were read count."""
    monkeypatch.setattr(listing_module, "LISTING_METRICS", 100)
    items = [raw(number, metrics={f"m{n}": n for n in range(7 + 40)}) for number in range(1, 5)]
    assert (2, False) == (len((found := read_listing(JOB, [items[:1], items[1:2]])).checkpoints), found.is_cut_off)
    assert (3, True) == (len((found := read_listing(JOB, [items[:1], items[1:]])).checkpoints), found.is_cut_off)
