"""Split the body of a response into the items of one page of a list, each with its bytes as received. Pure.

A list is an object with `data`, an array, and `has_more`, a boolean: OpenAI's published specification requires both,
and its official client relies on them. Any other body raises an error, so that it is never taken for an empty list.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import RawItem
from checkpointd.domain.failure import ErrorClass
from checkpointd.provider.body import describe
from checkpointd.provider.responses import says_quota
from checkpointd.provider.words import Words, words_in


class Page(NamedTuple):
    """One page: the bytes of its items, whether more pages follow, and the cursor of the next page.

    The cursor is the id of the last item. It is None if no page follows or if that id cannot be used.
    """

    items: Sequence[RawItem]
    has_more: bool
    last_id: str | None


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
    error: Any = None


class _Identified(msgspec.Struct):
    id: str


_decode_list = msgspec.json.Decoder(_List).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode


def read_page(body: bytes) -> Page:
    """Split a body into its items. Raises NotAListError.

    A value that msgspec rejects (NaN, a number out of range, a text that is not UTF-8) does not fail the page: its
    item is returned as received, like every other, and only that item is rejected later.
    """
    try:
        page = _decode_list(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_leniently(body)
    if page.error or _may_repeat_a_name(body, page.data):
        return _read_leniently(body)
    if page.object != "list":
        raise NotAListError(ErrorClass.NOT_A_LIST, f"an object of type {page.object[:40]!r}, not a list")
    return Page(page.data, page.has_more, _last_id(page.data) if page.has_more else None)


def _may_repeat_a_name(body: bytes, items: Sequence[msgspec.Raw]) -> bool:
    """Return whether `data` or `has_more` may occur twice. msgspec would use the last value, without an error.

    The quoted names are counted in the two ends of the body. All bytes outside the items are there, except the commas
    between the items. A search of the items would take longer, and would also count names inside them.
    """
    outside_items = len(body) - sum(memoryview(item).nbytes for item in items)
    longest_end = outside_items - (len(items) - 1)  # at least one comma between two items
    if len(body) > 2 * longest_end:
        body = body[:longest_end] + body[-longest_end:]
    return body.count(b'"data"') > 1 or body.count(b'"has_more"') > 1


def _last_id(items: Sequence[RawItem]) -> str | None:
    if not items:
        return None
    try:
        return _decode_identified(items[-1]).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            found = json.loads(bytes(items[-1])).get("id")
        except (ValueError, AttributeError, RecursionError):
            return None
        # A lone surrogate cannot be encoded in a URL, and is not printable.
        return found if isinstance(found, str) and found.isprintable() else None


# Any other body is no list, or a list with a value that msgspec rejects. The standard library accepts more values.


def _read_leniently(body: bytes) -> Page:
    """Read a body that msgspec rejects. Raises NotAListError, with a class for what it is instead of a list."""
    if not body.strip():
        raise NotAListError(ErrorClass.EMPTY_BODY, "an empty body")
    try:
        # surrogateescape keeps bytes that are not UTF-8. Only the item that contains them is rejected later.
        return _page_of(_Scanner(body.decode("utf-8", "surrogateescape")).list_members())
    except RecursionError:
        raise NotAListError(ErrorClass.NOT_JSON, "JSON nested too deeply") from None
    except (ValueError, IndexError):
        raise NotAListError(*describe(body)) from None


def _page_of(members: dict[str, Any] | None) -> Page:
    """Return the page with these members, or raise NotAListError. None means JSON that is not an object."""
    if members is None:
        raise NotAListError(ErrorClass.NOT_A_LIST, "JSON, but not an object")
    data = members.get("data")
    if "error" in members and (members["error"] or not isinstance(data, list)):
        raise _error_in_200(members)
    if not isinstance(data, list):
        if any(members.get(name) for name in ("errors", "detail", "fault")):
            raise _error_in_200(members)
        words = words_in(members)
        said = f", but these words: {words.text[:160]}" if words.text else ""
        raise NotAListError(ErrorClass.NOT_A_LIST, f"no array `data`{said}", words)
    if members.get("object", "list") != "list":
        raise NotAListError(ErrorClass.NOT_A_LIST, f"an object of type {_excerpt(members['object'])}, not a list")
    if "has_more" not in members:
        raise NotAListError(ErrorClass.BAD_HAS_MORE, "`has_more` is missing")
    has_more = members["has_more"]
    if not isinstance(has_more, bool):
        raise NotAListError(ErrorClass.BAD_HAS_MORE, f"`has_more` is {_excerpt(has_more)}, not true or false")
    return Page(data, has_more, _last_id(data) if has_more else None)


def _error_in_200(members: dict[str, Any]) -> NotAListError:
    """Return the failure of an error that was sent with status 200. Gateways do so after a part of an answer."""
    words = words_in({name: value for name, value in members.items() if name != "data"})
    error_class = ErrorClass.QUOTA if says_quota(words) else ErrorClass.ERROR_IN_200
    said = words.text[:160] or _excerpt(members.get("error"))
    return NotAListError(error_class, f"an error with status 200: {said}", words)


def _excerpt(value: object) -> str:
    """Return a value as JSON; at most 160 characters."""
    return json.dumps(value)[:160]


# int() raises an error for thousands of digits, which would make the page fail: only the first 40 digits are used.
_decoder = json.JSONDecoder(parse_int=lambda digits: int(digits[:40]))
_decode_value: Callable[[str, int], tuple[Any, int]] = _decoder.raw_decode


class _Scanner:
    """Reads a JSON text from left to right. Its methods raise ValueError or IndexError if the text is not JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def list_members(self) -> dict[str, Any] | None:
        """Return the members of the JSON object, with the array `data` as a list of the bytes of each item.

        Returns None for JSON that is not an object. Raises NotAListError if `data` or `has_more` has two values.
        """
        members = self._members() if self._next() == "{" else None
        if members is None:
            self._value()
        if self._skip_blanks() < len(self._text):
            raise ValueError("trailing characters")
        return members

    def _members(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for _ in self._entries("{", "}"):
            name = self._value()
            if not isinstance(name, str):
                raise ValueError("a name expected")  # noqa: TRY004  # of JSON, not of Python
            self._take(":")
            value = self._items() if name == "data" and self._next() == "[" else self._value()
            if name in {"data", "has_more"} and name in members and members[name] != value:
                raise NotAListError(ErrorClass.NOT_A_LIST, f"`{name}` given twice with different values")
            members[name] = value
        return members

    def _items(self) -> list[bytes]:
        items = []
        for _ in self._entries("[", "]"):
            start = self._skip_blanks()
            self._value()
            items.append(self._text[start : self._at].encode("utf-8", "surrogateescape"))
        return items

    def _entries(self, first: str, last: str) -> Iterator[None]:
        """Yield before each entry of an object or array, and step over its brackets and commas."""
        self._take(first)
        if self._next() != last:
            yield
            while self._next() != last:
                self._take(",")
                yield
        self._take(last)

    def _value(self) -> Any:  # noqa: ANN401  # any JSON
        value, self._at = _decode_value(self._text, self._skip_blanks())
        return value

    def _take(self, char: str) -> None:
        if self._next() != char:
            raise ValueError(f"{char} expected")
        self._at += 1

    def _next(self) -> str:
        return self._text[self._skip_blanks()]

    def _skip_blanks(self) -> int:
        """Step over blanks, and return the position of what follows them."""
        while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
            self._at += 1
        return self._at
