"""Split the body of a response into the items of one page of a list, each with its bytes as received. Pure.

A list is an object with `data`, an array, and `has_more`, a boolean: OpenAI's published specification requires both,
and its official client relies on them. A page without a boolean `has_more` has its items, and a failure. Any other body
raises an error, so that it is never taken for an empty list.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import ITEM_BYTES
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.json_text import Scanner, outer_members
from checkpointd.domain.reading import RawItem
from checkpointd.provider.body import describe
from checkpointd.provider.formats.format import ListFormat, Paging
from checkpointd.provider.heavy_work import LARGE_BYTES
from checkpointd.provider.responses import says_quota
from checkpointd.provider.words import Words, words_in

PAGE_ITEMS: Final = 10_000
"""The most items of a page of which a number was requested."""

ITEMS_PER_REQUESTED: Final = 100
FEWEST_ITEMS: Final = 1000
"""A page may have so many times as many items as were requested, and always FEWEST_ITEMS: some providers ignore `limit`
and return the whole list."""

WHOLE_ITEMS: Final = 50_000
"""The most items of a list that is requested as a whole. Its bytes usually end it before."""

LENIENT_VALUES: Final = 200_000
"""The most values of a body that the standard library reads. Each takes up to some hundred bytes of memory."""

LAST_ID_CHARACTERS: Final = 1000
"""The most characters of an id that is used as a cursor."""


class Requested(NamedTuple):
    """What was requested: a page of a list of this format, how many items, and after which cursor."""

    format: ListFormat
    page_size: int
    cursor: str | None = None


OPENAI_PAGE: Final = Requested(ListFormat(""), PAGE_ITEMS)
"""A page of a list of OpenAI's format."""


def most_items(requested: Requested) -> int:
    """Return how many items a page may have."""
    if not requested.format.query(requested.cursor, requested.page_size):
        return WHOLE_ITEMS
    return min(max(ITEMS_PER_REQUESTED * requested.page_size, FEWEST_ITEMS), PAGE_ITEMS)


class Page(NamedTuple):
    """One page: the bytes of its items, whether more pages follow, and the cursor of the next page.

    The cursor is the id of the last item. It is None if no page follows or if that id cannot be used. `failure` is why
    it is unknown whether more pages follow, or None.
    """

    items: Sequence[RawItem]
    has_more: bool
    last_id: str | None
    failure: Failure | None = None
    body: RawItem = b""
    """The JSON text, which the client adds."""


KNOWN_PAGE: Final = Page([], has_more=False, last_id=None)
"""Stands for a page that is the whole of the last complete listing, byte for byte."""


class NotAListError(Exception):
    """A body is not a page of a list. The text is the reason; `words` are those of an error that it is instead."""

    def __init__(self, error_class: ErrorClass, message: str, words: Words | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.words = words or Words("none")


class _List(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool
    object: str = "list"
    error: msgspec.Raw = msgspec.Raw()
    """Not decoded, because it can be as large as the body."""


class _Identified(msgspec.Struct):
    id: str


_NO_ERROR: Final = frozenset({b"", b"null", b"{}", b"[]", b'""', b"false"})
_decode_list = msgspec.json.Decoder(_List).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode


def read_page(body: bytes, requested: Requested = OPENAI_PAGE) -> Page:
    """Split a body into its items. Raises NotAListError.

    A value that msgspec rejects (NaN, a number out of range, a text that is not UTF-8) does not fail the page: its
    item is returned as received, like every other, and only that item is rejected later.
    """
    page, most = _split(body, requested), most_items(requested)
    if len(page.items) > most:
        raise NotAListError(ErrorClass.TOO_MANY_ITEMS, f"a page of more than {most} items")
    return page


def _split(body: bytes, requested: Requested) -> Page:
    if requested.format.items != "data" or requested.format.paging not in {"after", "after_empty"}:
        return _read_leniently(body, requested)
    try:
        page = _decode_list(body) if len(body) <= LARGE_BYTES else _decode_large_list(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_leniently(body, requested)
    if bytes(page.error) not in _NO_ERROR or _may_repeat_a_name(body, page.data):
        return _read_leniently(body, requested)
    if page.object != "list":
        raise NotAListError(ErrorClass.NOT_A_LIST, f"an object of type {page.object[:40]!r}, not a list")
    return Page(page.data, page.has_more, _last_id(page.data) if page.has_more else None)


def _decode_large_list(body: bytes) -> _List:
    """Decode a list of any number of items. Of more than PAGE_ITEMS items, one more is returned.

    msgspec steps over the values that an array has beyond the fields of a structure. So they take no memory.
    """
    found = _large_list_decoder()(body)
    items = [item for item in msgspec.structs.astuple(found.data) if len(item)]
    return _List(items, found.has_more, found.object, found.error)


@cache
def _large_list_decoder() -> Callable[[bytes], Any]:
    """Return the decoder of large lists. It takes 5 MB, and most processes never need it."""
    fields = [(f"item_{number}", msgspec.Raw, msgspec.Raw()) for number in range(PAGE_ITEMS + 1)]
    items = msgspec.defstruct("Items", fields, array_like=True, gc=False)
    members: list[Any] = [
        ("data", items),
        ("has_more", bool),
        ("object", str, "list"),
        ("error", msgspec.Raw, msgspec.Raw()),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("LargeList", members)).decode


def _may_repeat_a_name(body: bytes, items: Sequence[msgspec.Raw]) -> bool:
    """Return whether `data` or `has_more` may occur twice. msgspec would use the last value, without an error.

    The quoted names are counted in the two ends of the body. All bytes outside the items are there, except the commas
    between the items. A search of the items would take longer, and would also count names inside them.
    """
    outside_items = len(body) - sum(memoryview(item).nbytes for item in items)
    longest_end = outside_items - (len(items) - 1)  # at least one comma between two items
    ends = body[:longest_end] + body[-longest_end:] if len(body) > 2 * longest_end else body
    return _repeats_a_name(ends) and _repeats_a_name(_without(items, body))


def _repeats_a_name(text: bytes) -> bool:
    return text.count(b'"data"') > 1 or text.count(b'"has_more"') > 1


def _without(items: Sequence[msgspec.Raw], body: bytes) -> bytes:
    """Return a body without those of its items that are objects, which can have a member `data`, as events do.

    The names in an object that is found elsewhere, and removed instead of an item, are not those of the list, either.
    """
    left, at = [], 0
    for item in items:
        text = bytes(item)
        if text.startswith(b"{") and (start := body.find(text, at)) >= 0:
            left.append(body[at:start])
            at = start + len(text)
    return b"".join([*left, body[at:]])


def _last_id(items: Sequence[RawItem]) -> str | None:
    """Return the id of the last item. That of an earlier one could skip items of a provider that repeats some.

    None if it is no cursor: a blank one would request the first page again, which could pass for the end of the list. A
    lone surrogate, which is not printable, cannot be encoded in a URL.
    """
    if not items:
        return None
    found: Any
    try:
        found = _decode_identified(items[-1]).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = outer_members(bytes(items[-1])).get("id") if len(items[-1]) <= ITEM_BYTES else None
    if not isinstance(found, str) or len(found) > LAST_ID_CHARACTERS:
        return None
    return found if found.strip() and found.isprintable() else None


# Any other body is no list, or a list with a value that msgspec rejects. The standard library accepts more values.


def _read_leniently(body: bytes, requested: Requested) -> Page:
    """Read a body that msgspec rejects. Raises NotAListError, with a class for what it is instead of a list."""
    if not body.strip():
        raise NotAListError(ErrorClass.EMPTY_BODY, "an empty body")
    if len(body) > LENIENT_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > LENIENT_VALUES:
        message = f"more than {LENIENT_VALUES} values, and not a valid list"
        raise NotAListError(ErrorClass.TOO_MANY_ITEMS, message)
    try:
        # surrogateescape keeps bytes that are not UTF-8. Only the item that contains them is rejected later.
        members = Scanner(body.decode("utf-8", "surrogateescape")).members(split=requested.format.items)
        return _page_of(members, requested)
    except (ValueError, IndexError):
        raise NotAListError(*describe(body)) from None


def _page_of(members: Sequence[tuple[str, Any]] | None, requested: Requested) -> Page:
    """Return the page with these members, or raise NotAListError. None means JSON that is not an object."""
    if members is None:
        raise NotAListError(ErrorClass.NOT_A_LIST, "JSON, but not an object")
    sent, name = dict(members), requested.format.items
    data = sent.get(name)
    if data is None and name in sent and requested.format.null_is_empty:
        data = []
    if "error" in sent and (sent["error"] or not isinstance(data, list)):
        raise _error_in_200(sent)
    if not isinstance(data, list):
        if any(map(sent.get, ("errors", "detail", "fault"))):
            raise _error_in_200(sent)
        words = words_in(sent)
        said = f", but these words: {words.text[:160]}" if words.text else ""
        raise NotAListError(ErrorClass.NOT_A_LIST, f"no array `{name}`{said}", words)
    if any(given == name and value != sent[name] for given, value in members):
        raise NotAListError(ErrorClass.NOT_A_LIST, f"`{name}` given twice with different values")
    if sent.get("object") not in (None, "list"):
        raise NotAListError(ErrorClass.NOT_A_LIST, f"an object of type {_excerpt(sent['object'])}, not a list")
    if requested.format.paging in {"offset", "whole_or_offset"}:
        return _by_offset(sent, data, requested)
    has_more = _has_more(members, sent, requested.format.paging, is_empty=not data)
    if isinstance(has_more, str):
        return Page(data, has_more=False, last_id=None, failure=Failure(ErrorClass.BAD_HAS_MORE, has_more))
    return Page(data, has_more, _last_id(data) if has_more else None)


def _has_more(
    members: Sequence[tuple[str, Any]], sent: dict[str, Any], paging: Paging, *, is_empty: bool
) -> bool | str:
    """Return whether a page follows, or why that is unknown."""
    has_more = sent.get("has_more")
    if paging == "whole":
        return "`has_more` is true, but how the next page is requested is not known" if has_more else False
    if any(name == "has_more" and value is not has_more for name, value in members):
        return "`has_more` given twice with different values"
    if has_more is None and paging == "after_empty":
        return not is_empty
    if "has_more" not in sent:
        return "`has_more` is missing"
    return has_more if isinstance(has_more, bool) else f"`has_more` is {_excerpt(has_more)}, not true or false"


def _by_offset(sent: dict[str, Any], data: Sequence[RawItem], requested: Requested) -> Page:
    """Return a page of a list whose cursor is the number of items before it."""
    offset, cursor = int(requested.cursor or 0), sent.get("cursor")
    if cursor is None and requested.format.paging == "whole_or_offset" and not offset:
        return Page(data, has_more=False, last_id=None)
    here, total = (cursor.get("offset"), cursor.get("total_count")) if isinstance(cursor, dict) else (None, None)
    if type(here) is not int or type(total) is not int:
        problem = "`cursor` has no integers `offset` and `total_count`"
    elif here != offset:
        problem = f"`cursor.offset` is {here}, but {offset} was requested"
    else:
        end = offset + len(data)
        return Page(data, has_more=end < total, last_id=str(end) if end < total else None)
    return Page(data, has_more=False, last_id=None, failure=Failure(ErrorClass.BAD_HAS_MORE, problem))


def _error_in_200(members: dict[str, Any]) -> NotAListError:
    """Return the failure of an error that was sent with status 200. Gateways do so after a part of an answer."""
    words = words_in({name: value for name, value in members.items() if name != "data"})
    error_class = ErrorClass.QUOTA if says_quota(words) else ErrorClass.ERROR_IN_200
    said = words.text[:160] or _excerpt(members.get("error"))
    return NotAListError(error_class, f"an error with status 200: {said}", words)


def _excerpt(value: object) -> str:
    """Return a value as JSON; at most 160 characters."""
    try:
        return json.dumps(value)[:160]
    except (RecursionError, TypeError):  # UNREADABLE, or nearly as deep
        return "JSON nested too deeply"
