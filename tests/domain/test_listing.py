"""A listing: each item is a checkpoint or a reject, whatever its neighbours are."""

import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain import listing
from checkpointd.provider.page import read_page
from support.paths import DATA
from support.provider import JOB, checkpoint

examples = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

RECORDED = sorted((DATA / "recorded").glob("*.json"))
FOREIGN = b'{"object": "fine_tuning.job.event", "id": "ftevent-1", "created_at": 1, "level": "info", "message": "hi"}'


def raw(number: int, **fields: Any) -> bytes:
    """Return the bytes of the checkpoint of step `number`."""
    return json.dumps({**checkpoint(number), **fields}).encode()


def name(number: int) -> str:
    """Return the id of the checkpoint of step `number`."""
    return checkpoint(number)["id"]


def spoil(number: int, kind: str) -> tuple[bytes, str | None]:
    """Return a checkpoint that cannot be read in one of the ways there are, and the id that can be read of it."""
    return {
        "text": (raw(number, step_number="7"), name(number)),
        "half": (raw(number, step_number=1.5), name(number)),
        "other job": (raw(number, fine_tuning_job_id="ftjob-other"), name(number)),
        "no metric": (raw(number, metrics={"train_loss": "low"}), name(number)),
        "doubled": (raw(number)[:-1] + b', "step_number": 0}', name(number)),
        "no id": (raw(number, id=None), None),
        "odd id": (raw(number, id="a b"), None),
        "no UTF-8": (raw(number, note="x").replace(b'"x"', b'"\xff"'), None),
        "no object": (b"%d" % number, None),
        "deep": (raw(number)[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
    }[kind]


kinds = st.sampled_from(
    ["text", "half", "other job", "no metric", "doubled", "no id", "odd id", "no UTF-8", "no object"]
)
plans = st.lists(st.tuples(st.integers(1, 30), st.none() | kinds), max_size=12, unique_by=lambda plan: plan[0]).filter(
    lambda plan: not plan or any(kind != "no object" for _, kind in plan)
)  # else it is no list of checkpoints


def cut(raws: list[bytes], ends: list[int]) -> list[list[bytes]]:
    """Return the items as pages that end at these places."""
    bounds = sorted({0, len(raws), *(end for end in ends if end < len(raws))})
    return [raws[a:b] for a, b in pairwise(bounds)] or [[]]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_reads_recorded_answers(path: Path) -> None:
    """Every checkpoint of every recorded answer is read, with its metrics, and none is rejected."""
    sent = json.loads(path.read_bytes())["data"]
    reading = listing.read_listing(sent[0]["fine_tuning_job_id"], [read_page(path.read_bytes()).items])
    assert ([], None) == (reading.rejects, reading.foreign)
    assert [(item["id"], item["step_number"], item["metrics"]) for item in sent] == [
        (item.id, item.step_number, item.metrics) for item in reading.checkpoints
    ]


@examples
@given(plans, st.lists(st.integers(0, 12), max_size=3))
def test_accounts_balance(plan: list[tuple[int, str | None]], ends: list[int]) -> None:
    """Every item listed is a checkpoint or a reject with its own bytes and id; a bad one costs no good one."""
    spoilt = {number: spoil(number, kind) for number, kind in plan if kind}
    raws = [spoilt[number][0] if kind else raw(number) for number, kind in plan]
    reading = listing.read_listing(JOB, cut(raws, ends))
    assert [name(number) for number, kind in plan if not kind] == [item.id for item in reading.checkpoints]
    assert [spoilt[number] for number, kind in plan if kind] == [(r.raw, r.id) for r in reading.rejects]
    assert len(raws) == len(reading.checkpoints) + len(reading.rejects)


@examples
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_the_last_of_one_id_counts(sent: list[tuple[int, int]], ends: list[int]) -> None:
    """Of items with one id the last is taken, on one page and across pages, and each id is there once."""
    raws = [raw(number, metrics={"train_loss": loss}) for number, loss in sent]
    reading = listing.read_listing(JOB, cut(raws, ends))
    assert len({number for number, _ in sent}) == len(reading.checkpoints)
    assert {name(number): loss for number, loss in sent} == {i.id: i.metrics["train_loss"] for i in reading.checkpoints}


@examples
@given(plans, st.randoms(use_true_random=False), st.lists(st.integers(0, 12), max_size=3))
def test_order_and_pages_do_not_matter(plan: list[tuple[int, str | None]], random: Any, ends: list[int]) -> None:
    """Items in another order, on other pages, are the same checkpoints and the same rejects."""
    raws = [spoil(number, kind)[0] if kind else raw(number) for number, kind in plan]
    expected = listing.read_listing(JOB, [raws])
    random.shuffle(raws)
    actual = listing.read_listing(JOB, cut(raws, ends))
    assert sorted(expected.rejects, key=repr) == sorted(actual.rejects, key=repr)
    assert sorted(expected.checkpoints, key=repr) == sorted(actual.checkpoints, key=repr)


def test_what_is_given_twice_differently_is_kept() -> None:
    """Of one page's different items with one id the earlier ones are rejects; from page to page a list may move on."""
    first, second = raw(7, metrics={"train_loss": 1}), raw(7, metrics={"train_loss": 2})
    reading = listing.read_listing(JOB, [[first, second, second, raw(6)]])
    assert [{"train_loss": 2}, raw(6)] == [reading.checkpoints[0].metrics, reading.checkpoints[1].payload.encode()]
    assert [(first, name(7))] == [(reject.raw, reject.id) for reject in reading.rejects]
    assert [] == listing.read_listing(JOB, [[first], [second]]).rejects
    assert [] == listing.read_listing(JOB, [[first, first.replace(b", ", b",")]]).rejects


def test_flaw_is_told_and_costs_nothing() -> None:
    """An item with NaN is a checkpoint without that metric, and a reject that keeps its bytes."""
    odd = raw(7, metrics={"train_loss": float("nan"), "valid_loss": 0.5})
    reading = listing.read_listing(JOB, [[raw(8), odd, raw(6)]])
    assert [name(8), name(7), name(6)] == [item.id for item in reading.checkpoints]
    assert {"train_loss": None, "valid_loss": 0.5} == reading.checkpoints[1].metrics
    assert [listing.Reject(odd, "not finite: train_loss", name(7))] == reading.rejects


def test_deep_nesting_costs_only_its_item() -> None:
    """An item nested beyond all measure is a reject, even where its id cannot be read."""
    deep, known = spoil(7, "deep")
    reading = listing.read_listing(JOB, [[raw(8), deep, raw(6)]])
    assert [name(8), name(6)] == [item.id for item in reading.checkpoints]
    assert {reject.id for reject in reading.rejects} <= {known, name(7)}  # some Pythons read deeper than others


@examples
@given(st.integers(0, 3), st.integers(0, 2))
def test_foreign_item_makes_its_page_unreadable(page: int, place: int) -> None:
    """An item of another type costs its page and all that follow; the pages before it stay."""
    pages = [[raw(10 * p + i + 1) for i in range(2)] for p in range(4)]
    pages[page].insert(place, FOREIGN)
    reading = listing.read_listing(JOB, pages)
    assert "fine_tuning.job.event" == reading.foreign
    assert [name(10 * p + i + 1) for p in range(page) for i in range(2)] == [item.id for item in reading.checkpoints]


def test_a_foreign_item_with_a_secret_is_foreign() -> None:
    """An item of another type in which the key stands makes nothing complete either; its type is not told."""
    told = json.dumps({"object": "sk-canary", "id": "e1"}).encode()
    reading = listing.read_listing(JOB, [[told]], lambda text: b"canary" in text)
    assert ([], [], "items of another type") == reading


@pytest.mark.parametrize("untyped", [b'{"id": "ev-1"}', b"1", b'{"object": null, "id": "x"}', b'"no object"'])
def test_what_says_nowhere_that_it_is_a_checkpoint(untyped: bytes) -> None:
    """It is a bad item, and whatever it calls itself, it may be any checkpoint that is not listed beside it."""
    reading = listing.read_listing(JOB, [[untyped, raw(1)]])
    assert ([name(1)], None) == ([item.id for item in reading.checkpoints], reading.foreign)
    assert [(untyped, None)] == [(reject.raw, reject.id) for reject in reading.rejects]


def test_nothing_listed() -> None:
    """An empty page is a listing of nothing, not a failure."""
    assert listing.Listing([], [], None) == listing.read_listing(JOB, [[]])


@examples
@given(plans, plans, st.lists(st.integers(0, 12), max_size=3))
def test_digest(plan: list[tuple[int, str | None]], other: list[tuple[int, str | None]], ends: list[int]) -> None:
    """Two listings have one digest if and only if their items have the same bytes in the same order."""
    raws, others = ([spoil(n, kind)[0] if kind else raw(n) for n, kind in p] for p in (plan, other))
    assert 32 == len(listing.digest([raws]))
    assert (raws == others) == (listing.digest([raws]) == listing.digest([others]))
    assert listing.digest([raws]) == listing.digest([page for page in cut(raws, ends) if page] or [[]])


def test_digest_of_any_reading_is_the_same() -> None:
    """The digest does not depend on which reader split the body: equal bytes are equal."""
    body = b'{"data": [' + raw(1) + b" , " + raw(2) + b'], "has_more": false}'
    doubled = body[:-1] + b', "has_more": false}'
    assert listing.digest([read_page(body).items]) == listing.digest([read_page(doubled).items])


def test_a_new_reader_reads_again() -> None:
    """The reader's version is part of the digest."""
    assert sha256(listing.READER + raw(1) + b"\n").digest() == listing.digest([[raw(1)]])


def test_bad_copy_does_not_take_the_good_one() -> None:
    """Of two items with one id, of which the last cannot be read, one is a checkpoint and one a reject."""
    reading = listing.read_listing(JOB, [[raw(1)], [raw(1, step_number="1")]])
    assert ([name(1)], [name(1)]) == (
        [item.id for item in reading.checkpoints],
        [reject.id for reject in reading.rejects],
    )
