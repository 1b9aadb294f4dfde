"""A body is split into items byte for byte, or has the class of its failure. It is never an empty list by mistake."""

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.provider.formats.format import ListFormat
from checkpointd.provider.heavy_work import LARGE_BYTES
from checkpointd.provider.page import PAGE_ITEMS, WHOLE_ITEMS, NotAListError, Page, Requested, most_items, read_page
from support.examples import tries
from support.paths import DATA
from support.provider import checkpoint

examples = settings(max_examples=tries(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])

RECORDED = {path.stem: path.read_bytes().strip() for path in (DATA / "recorded").glob("*.json")}

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
items = st.lists(values | st.fixed_dictionaries({"id": texts}, optional={"data": values, "has_more": values}))
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"indent": "\t", "ensure_ascii": False}])

ODD = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"1" * 5000,
    b"-" + b"1" * 5000,
    rb'"\ud800"',
    rb'"\u0000"',
    b'"\xff is no UTF-8"',
    b'"\xed\xa0\x80 neither"',
]
"""JSON values, or nearly, that msgspec rejects."""


def page(*raws: bytes, has_more: bytes = b"false") -> bytes:
    """Return the body of a page with these items, byte for byte."""
    return b'{"object": "list", "data": [' + b" , ".join(raws) + b'], "has_more": ' + has_more + b"}"


def with_nan(body: bytes) -> bytes:
    """Return an object with one more member, an unknown one, that only the lenient reader accepts."""
    return b'{"added": NaN, ' + body.removeprefix(b"{")


def comparable(found: Page) -> tuple[list[bytes], bool, str | None]:
    """Return a page in a form that can be compared."""
    return [bytes(item) for item in found.items], found.has_more, found.last_id


def class_of(body: bytes) -> ErrorClass:
    """Return the class of the failure of a body, which must have a reason, too."""
    with pytest.raises(NotAListError) as caught:
        read_page(body)
    assert str(caught.value)
    return caught.value.error_class


@pytest.mark.parametrize("name", RECORDED)
def test_reads_recorded_answers(name: str) -> None:
    """Every recorded answer is split into its items, with `has_more` and the cursor, by both readers."""
    expected = json.loads(RECORDED[name])
    for body in (RECORDED[name], with_nan(RECORDED[name])):
        found = read_page(body)
        assert (expected["data"], expected["has_more"]) == ([json.loads(bytes(i)) for i in found.items], found.has_more)
        assert (expected["data"][-1]["id"] if expected["has_more"] else None) == found.last_id


@examples
@given(items, st.booleans(), layouts, st.dictionaries(texts, values, max_size=2))
def test_both_readers_agree(data: list[Any], has_more: bool, layout: dict[str, Any], others: dict[str, Any]) -> None:
    """The fast and the lenient reader return the same bytes for the same items, in every layout."""
    body = json.dumps(
        {**others, "data": data, "object": "list", "has_more": has_more, "error": None}, **layout
    ).encode()
    fast, lenient = comparable(read_page(body)), comparable(read_page(with_nan(body)))
    assert fast == lenient
    assert (data, has_more) == ([json.loads(raw) for raw in fast[0]], fast[1])


@examples
@given(items, items, st.lists(st.sampled_from(ODD), min_size=1, max_size=3))
def test_odd_items_change_no_other(before: list[Any], after: list[Any], odd: list[bytes]) -> None:
    """Items that msgspec rejects are returned as received, and change no byte of the other items."""
    raws = [
        *(json.dumps(item).encode() for item in before),
        *(b'{"id": "ftckpt_odd", "metrics": {"train_loss": ' + value + b"}}" for value in odd),
        *(json.dumps(item).encode() for item in after),
    ]
    assert (raws, False, None) == comparable(read_page(page(*raws)))


@pytest.mark.parametrize("odd", ODD[:6])
def test_odd_last_item_has_a_cursor(odd: bytes) -> None:
    """The id of a last item that msgspec rejects is read, so that paging can go on."""
    last = b'{"metrics": {"train_loss": ' + odd + b'}, "id": "ftckpt_1"}'
    assert "ftckpt_1" == read_page(page(b'{"id": "ftckpt_2"}', last, has_more=b"true")).last_id


@pytest.mark.parametrize(
    "last",
    [
        b"7", b"[]", b"{}", b'{"id": 7}', b'{"id": null}', b'{"id": ""}', b'{"id": " "}', rb'{"id": "a\u0000"}',
        rb'{"id": "\ud800"}',
    ],
)  # fmt: skip
def test_no_cursor(last: bytes) -> None:
    """A page whose last item has no id, or one that is blank or does not fit in a URL, is read without a cursor."""
    assert ([last], True, None) == comparable(read_page(page(last, has_more=b"true")))
    before = b'{"id": "ftckpt_2"}'
    assert ([before, last], True, None) == comparable(read_page(page(before, last, has_more=b"true")))


def test_empty_list() -> None:
    """An empty list without more pages is an empty page: a job that has just started has no checkpoints."""
    assert ([], False, None) == comparable(read_page(b'{"object": "list", "data": [], "has_more": false}'))


@pytest.mark.parametrize("body", [*RECORDED.values(), page(b'{"x": NaN}', b"1e400")], ids=[*RECORDED, "odd"])
def test_cut_anywhere(body: bytes) -> None:
    """A body that is cut off after any byte is not a list, and so never an empty or shorter one."""
    assert isinstance(read_page(body), Page)
    for end in range(len(body)):
        expected = ErrorClass.NOT_JSON if body[:end].strip() else ErrorClass.EMPTY_BODY
        assert class_of(body[:end]) is expected, end


@pytest.mark.parametrize(
    ("has_more", "reason"),
    [
        (b"", "`has_more` is missing"),
        (b', "has_more": null', "`has_more` is null, not true or false"),
        (b', "has_more": "no"', '`has_more` is "no", not true or false'),
        (b', "has_more": 0', "`has_more` is 0, not true or false"),
        (b', "has_more": NaN', "`has_more` is NaN, not true or false"),
        (b', "has_more": []', "`has_more` is [], not true or false"),
        (b', "has_more": true, "has_more": false', "`has_more` given twice with different values"),
        (b', "has_more": ' + b"[" * 99_999 + b"]" * 99_999, "`has_more` is JSON nested too deeply, not true or false"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_has_more_is_required(has_more: bytes, reason: str) -> None:
    """A list without a boolean `has_more` has its items, and a failure that tells a missing one from another value."""
    found = read_page(b'{"object": "list", "data": [{"id": "ftckpt_1"}]' + has_more + b"}")
    assert ([b'{"id": "ftckpt_1"}'], False, None) == comparable(found)
    assert Failure(ErrorClass.BAD_HAS_MORE, reason) == found.failure


@pytest.mark.parametrize("absent", [b"", b', "has_more": null'])
def test_an_empty_page_is_the_end_if_has_more_may_be_absent(absent: bytes) -> None:
    """Where `has_more` may be absent, a page without it is followed unless it is empty, however few items it has."""
    requested = Requested(ListFormat("", "after_empty"), 100)
    found = [
        read_page(b'{"object": "list", "data": [' + items + b"]" + has_more + b"}", requested=requested)
        for items, has_more in ((b'{"id": "a"}', absent), (b"", absent), (b'{"id": "a"}', b', "has_more": false'))
    ]
    assert [(True, "a", None), (False, None, None), (False, None, None)] == [
        (page.has_more, page.last_id, page.failure) for page in found
    ]


LIST = b'{"object": "list", "data": [{"id": "ftckpt_1"}], "has_more": false}'
ITEM = json.dumps(checkpoint(1)).encode()

BODIES = [
    ("empty_body", b""),
    ("empty_body", b" \r\n\t"),
    ("html", b"<!DOCTYPE html><html><body>Bad gateway</body></html>"),
    ("html", b'\n <?xml version="1.0"?><Error/>'),
    ("html", b"\xef\xbb\xbf<html>"),
    ("html", "<html>Für später</html>".encode("latin-1")),
    ("not_json", b"Bad gateway"),
    ("not_json", b"\xef\xbb\xbf" + LIST),
    ("not_json", LIST.decode().encode("utf-16")),
    ("not_json", LIST.decode().encode("utf-16-le")),
    ("not_json", LIST.decode().encode("utf-32")),
    ("not_json", LIST + b"x"),
    ("not_json", LIST + LIST),
    ("not_json", LIST + b"\n<html>"),
    ("not_json", LIST + b"\0"),
    ("not_json", b"\0" + LIST),
    ("not_json", LIST.replace(b'"data"', b"data")),
    ("not_json", LIST.replace(b'"', b"'")),
    ("not_json", LIST.replace(b"}]", b"},]")),
    ("not_json", LIST.replace(b"false", b"false,")),
    ("not_json", LIST.replace(b"[{", b"[,{")),
    ("not_json", LIST.replace(b"[{", b"[01,{")),
    ("not_json", LIST.replace(b": [", b" [")),
    ("not_json", LIST.replace(b'"object"', b"7")),
    ("not_json", LIST.replace(b'"object"', b"[]")),
    ("not_json", b"[" * 100_000),
    ("not_json", b'{"data": ' * 100_000),
    ("not_json", page(b"[" * 100_000 + b"]" * 99_999)),
    ("not_json", page(b"[" * 100_000 + b"}" * 100_000)),
    ("not_json", page(b"[" * 100_000 + b'"' + b"]" * 100_000)),
    ("error_in_200", b'{"data": [], "has_more": false, "error": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("not_a_list", b'{"data": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b', "has_more": false}'),
    ("not_a_list", b"null"),
    ("not_a_list", b"7"),
    ("not_a_list", b'"a list"'),
    ("not_a_list", b"[]"),
    ("not_a_list", b"[" + ITEM + b"]"),
    ("not_a_list", b"{}"),
    ("not_a_list", ITEM),
    ("not_a_list", b'{"object": "list", "has_more": false}'),
    ("not_a_list", b'{"object": "list", "data": null, "has_more": false}'),
    ("not_a_list", b'{"object": "list", "data": {}, "has_more": false}'),
    ("not_a_list", b'{"object": "list", "data": "[]", "has_more": false}'),
    ("not_a_list", b'{"object": "list", "data": 0, "has_more": false}'),
    ("not_a_list", b'{"object": "list", "DATA": [], "has_more": false}'),
    ("not_a_list", b'{"object": "fine_tuning.job", "data": [], "has_more": false}'),
    ("not_a_list", b'{"object": "", "data": [], "has_more": false}'),
    ("not_a_list", b'{"object": ["list"], "data": [], "has_more": false}'),
    ("not_a_list", rb'{"object": "\ud800", "data": [], "has_more": false}'),
    ("not_a_list", b'{"data": [{"id": "ftckpt_1"}], "data": [], "has_more": false}'),
    ("not_a_list", b'{"data": [], "data": [NaN], "has_more": false}'),
    ("not_a_list", b'{"data": [], "data": null, "has_more": false}'),
    ("error_in_200", b'{"error": {"message": "The server had an error", "type": "server_error"}}'),
    ("error_in_200", b'{"error": "overloaded"}'),
    ("error_in_200", b'{"error": {"message": "upstream timed out"}, "data": [], "has_more": false}'),
    ("error_in_200", b'{"error": {"message": "half"}, "data": [{"id": "ftckpt_1"}], "has_more": true}'),
    ("error_in_200", b'{"error": {"code": ' + b"5" * 5000 + b"}}"),
    ("error_in_200", b'{"error": {"message": "no"}, "data": null, "has_more": false}'),
]


@pytest.mark.parametrize(("expected", "body"), BODIES, ids=lambda value: repr(value[:60]))
def test_not_a_list(expected: str, body: bytes) -> None:
    """A body that is not a list is rejected with the class of what it is instead."""
    assert expected == class_of(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [7], "has_more": false}',
        b'{"has_more": false, "data": [7], "object": "list", "error": null}',
        b'{"has_more": false, "data": [7], "object": null}',
        b'{"data": [7], "has_more": false, "error": {}, "first_id": null, "last_id": null, "x": NaN}',
        b'{"data": [7], "data": [7], "has_more": false, "has_more": false}',
        b' \r\n\t{ "data"\t:\n[ 7 ]\r, "has_more" : false } \n',
    ],
)
def test_unusual_lists(body: bytes) -> None:
    """A list may have any order, blanks, unknown members, an empty error, and names repeated with an equal value."""
    assert ([b"7"], False, None) == comparable(read_page(body))


MANY = b",".join(b'{"id":"%d"}' % number for number in range(250))


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [7], "note": "%s", "data": [%s], "has_more": false}' % (b"x" * 250, MANY),
        b'{"note": "%s", "data": [7], "object": "list", "data": [%s], "has_more": false}' % (b"x" * 250, MANY),
        b'{"data": [%s], "data": [7], "has_more": false}' % MANY,
    ],
)
def test_repeated_names_are_found_anywhere(body: bytes) -> None:
    """`data` with two values is never a list, wherever in the body the two are."""
    assert ErrorClass.NOT_A_LIST is class_of(body)


def test_error_message_is_kept() -> None:
    """The message of an error with status 200 is repeated, up to 160 characters of it."""
    with pytest.raises(NotAListError, match=r"status 200: no such thing$"):
        read_page(b'{"error": {"message": "no such thing"}}')
    with pytest.raises(NotAListError) as caught:
        read_page(b'{"error": ["' + b"x" * 1000 + b'"]}')
    assert 200 > len(str(caught.value))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("depth", [1, 10, *range(900, 1020, 7), 7_000, 100_000])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_deep_item(depth: int, at: int) -> None:
    """An item nested to any depth is split off like any other, wherever it is, and the cursor is read from it."""
    items = [b'{"id": "ftckpt_1"}', b'{"id": "ftckpt_2"}']
    items.insert(at, b'{"note": "]\\"}", "x": ' + b"[" * depth + b"]" * depth + b', "id": "ftckpt_deep"}')
    last = "ftckpt_deep" if at == 2 else "ftckpt_2"
    assert (items, True, last) == comparable(read_page(page(*items, has_more=b"true")))


@pytest.mark.parametrize(
    "body", [b'{"note": %s, "data": [7], "has_more": false}', b'{"data": [7], "has_more": false, "x": %s}']
)
def test_deep_neighbour(body: bytes) -> None:
    """A deep value beside `data` affects no item."""
    assert ([b"7"], False, None) == comparable(read_page(body % DEEP))


@pytest.mark.parametrize("text", [b'"a\nb"', b'"\x01"'])
def test_raw_control_character(text: bytes) -> None:
    """A raw control character, which JSON does not allow, affects only its item."""
    assert ([b"7", text, b"8"], False, None) == comparable(read_page(page(b"7", text, b"8")))


@pytest.mark.parametrize(
    "place", [b'{"data": [%s], "has_more": true}', b'{"data": [], "has_more": %s}', b'{"error": %s}']
)
def test_any_depth(place: bytes) -> None:
    """A body with values nested to any depth has one outcome, and raises no other error."""
    outcomes: set[ErrorClass | type[Page]] = set()
    for depth in [1, 10, *range(900, 1020), 10_000]:
        try:
            outcomes.add(type(read_page(place % (b"[" * depth + b"]" * depth))))
        except NotAListError as e:
            outcomes.add(e.error_class)
    assert len(outcomes) == 1


@settings(examples, max_examples=tries(200))
@given(st.data())
def test_damaged_bytes(data: st.DataObject) -> None:
    """A body with any bytes replaced is a page whose items are parts of it, or not a list. No other error is raised."""
    body = data.draw(st.sampled_from([*RECORDED.values(), LIST, page(b"NaN")]))
    start = data.draw(st.integers(0, len(body)))
    end = start + data.draw(st.integers(0, 3))
    token = st.sampled_from([b"NaN", b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\", b"null", b'"data":[]', b"\xff"])
    damaged = body[:start] + data.draw(token | st.binary(max_size=3)) + body[end:]
    with suppress(NotAListError):
        assert all(bytes(item) in damaged for item in read_page(damaged).items)


# Many items, and large ones


@pytest.mark.parametrize("spoil", [bytes, with_nan], ids=["fast", "lenient"])
def test_a_page_has_a_limit_of_items(spoil: Callable[[bytes], bytes]) -> None:
    """A page with as many items as it may have is read, on both ways. With one more it fails, and is no list."""
    found = read_page(spoil(page(*[b"7"] * 1000)), Requested(ListFormat(""), 1))
    assert [b"7"] * 1000 == [bytes(item) for item in found.items]
    with pytest.raises(NotAListError) as caught:
        read_page(spoil(page(*[b"7"] * 1001)), Requested(ListFormat(""), 1))
    assert ErrorClass.TOO_MANY_ITEMS == caught.value.error_class


@pytest.mark.parametrize(("page_size", "expected"), [(1, 1000), (20, 2000), (100, 10_000), (1000, 10_000)])
def test_the_limit_depends_on_what_was_requested(page_size: int, expected: int) -> None:
    """A page may have a hundred times as many items as were requested, because some providers ignore `limit`."""
    assert expected == most_items(Requested(ListFormat(""), page_size))


@pytest.mark.parametrize("page_size", [1, 100])
def test_a_whole_list_has_its_own_limit(page_size: int) -> None:
    """A list that is requested as a whole may have more items than a page, whatever the page size is.

    Together's metrics of 10,000 steps, with two objects for each, are read. With one item too many it fails.
    """
    steps = [
        b'{"timestamp": 1779196193564587000, "train/global_step": %d, "train/epoch": 0.1, "train/loss": 2.43, '
        b'"train/grad_norm": 1.21, "train/learning_rate": 0.00001}, '
        b'{"timestamp": 1779196193564587000, "train/global_step": %d, "eval/loss": 2.35}' % (number, number)
        for number in range(10_000)
    ]
    requested = Requested(ListFormat("", "whole", "metrics"), page_size)
    assert 20_000 == len(read_page(b'{"metrics": [' + b", ".join(steps) + b"]}", requested).items)
    with pytest.raises(NotAListError) as caught:
        read_page(b'{"metrics": [' + b"7, " * WHOLE_ITEMS + b"7]}", requested)
    assert ErrorClass.TOO_MANY_ITEMS == caught.value.error_class


def test_large_page() -> None:
    """A large page is read like a small one, up to its last item. It may have 10,000 items, and no more."""
    raws = [b'{"id": "ftckpt_%d", "x": [1, {"y": 2}]}' % number for number in range(PAGE_ITEMS)]
    body = page(*raws, has_more=b"true")
    assert len(body) > LARGE_BYTES
    assert (raws, True, f"ftckpt_{PAGE_ITEMS - 1}") == comparable(read_page(body))
    assert ErrorClass.TOO_MANY_ITEMS == class_of(page(*raws, b"7"))


@pytest.mark.parametrize(
    "body",
    [
        page(*[b"[]"] * 150_000, has_more=b"NaN"),
        page(b"[" * 150_000 + b"]" * 150_000, b"{}," * 60_000 + b"{}", has_more=b"NaN"),
        b'{"error": [' + b"[]," * 150_000 + b"[]]}",
        b"[" * 300_000,
    ],
    ids=["arrays", "nested", "an error", "no list"],
)
def test_values_of_a_body_that_is_no_list(body: bytes) -> None:
    """A body of more than 200,000 values is not decoded, unless it is a valid list."""
    tracemalloc.start()
    try:
        assert ErrorClass.TOO_MANY_ITEMS == class_of(body)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_long_cursor() -> None:
    """An id that is longer than any that is used is no cursor, because it would become a part of a URL."""
    assert None is read_page(page(b'{"id": "%s"}' % (b"x" * 1001), has_more=b"true")).last_id


def test_items_may_have_members_named_like_those_of_a_list() -> None:
    """Items with a member `data`, as events have, are read like any others, however many values they have."""
    item = json.dumps({"id": "ftevent-1", "data": {f"m{n}": n for n in range(30)}, "has_more": True}).encode()
    items = [item] * 8000
    found = read_page(b'{"object": "list", "data": [' + b", ".join(items) + b'], "has_more": true}')
    assert (items, True, "ftevent-1") == comparable(found)
