"""Bytes of an answer → the items of one page of a list, each with its own bytes, or why it is no list. Pure.

A list is an object with `data`, an array, and `has_more`, a boolean (so the published specification, and what
its official client relies on). Anything else must never be taken for an empty list.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from checkpointd.domain.checkpoint import RawItem

EDGE = 200


class Page(NamedTuple):
    """One page: the items' own bytes, whether more follow, and the id of the last item (None: it has none)."""

    items: Sequence[RawItem]
    has_more: bool
    last_id: str | None


class NotAListError(Exception):
    """The body is no page of a list. `error_class` is one of the classes of failures.ErrorClass, the text says why."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool
    object: str = "list"
    error: Any = None


class _Identified(msgspec.Struct):
    id: str


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_identified = msgspec.json.Decoder(_Identified).decode


def read_page(body: bytes) -> Page:
    """Split a body into its items.

    Raises NotAListError. One item's NaN, or a number or text that strict readers refuse, does not cost the page: the
    item alone is judged, later.
    """
    try:
        envelope = _decode_envelope(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_leniently(body)
    if envelope.error or _may_be_doubled(body, envelope.data):
        return _read_leniently(body)  # an error beside the list, or perhaps a doubled key
    if envelope.object != "list":
        raise NotAListError("not_a_list", f"an object of type {envelope.object[:40]!r}, not a list")
    return Page(envelope.data, envelope.has_more, _last_id(envelope.data) if envelope.has_more else None)


def _may_be_doubled(body: bytes, items: Sequence[msgspec.Raw]) -> bool:
    """Say whether `data` or `has_more` may be given twice: msgspec takes the last one, and says nothing.

    Usually the items are nearly the whole body, and what is left of it stands at its two ends.
    """
    outside = len(body) - sum(memoryview(item).nbytes for item in items)
    if outside < 2 * len(items) + EDGE:
        body = body[:EDGE] + body[-EDGE:] if len(body) > 2 * EDGE else body
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
        # Half a character (a lone surrogate) fits in no URL: no cursor.
        return found if isinstance(found, str) and found.isprintable() else None


def _read_leniently(body: bytes) -> Page:
    """Read what msgspec refuses: either a list with an odd item, or no list, and then say what it is instead."""
    if not body.strip():
        raise NotAListError("empty_body", "an empty body")
    try:
        # Bytes that are no UTF-8 go through unharmed, to be judged with their item.
        return _judge(_walk(body.decode("utf-8", "surrogateescape")))
    except RecursionError:
        raise NotAListError("not_json", "JSON nested too deeply") from None
    except (ValueError, IndexError):
        if body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise NotAListError("html", "a page of HTML or XML") from None
        raise NotAListError("not_json", f"no JSON, or cut off: {len(body)} bytes") from None


def _judge(top: dict[str, Any] | None) -> Page:
    if top is None:
        raise NotAListError("not_a_list", "JSON, but no object")
    data = top.get("data")
    if "error" in top and (top["error"] or not isinstance(data, list)):
        raise NotAListError("error_in_200", f"an error with status 200: {_words(top['error'])}")
    if not isinstance(data, list):
        raise NotAListError("not_a_list", "no array `data`")
    if top.get("object", "list") != "list":
        raise NotAListError("not_a_list", f"an object of type {_words(top['object'])}, not a list")
    if "has_more" not in top:
        raise NotAListError("bad_has_more", "`has_more` is missing")
    if not isinstance(top["has_more"], bool):
        raise NotAListError("bad_has_more", f"`has_more` is {_words(top['has_more'])}, not true or false")
    return Page(data, top["has_more"], _last_id(data) if top["has_more"] else None)


def _words(value: object) -> str:
    message = value.get("message") if isinstance(value, dict) else None
    return (message if isinstance(message, str) else json.dumps(value))[:160]


# A number of thousands of digits would be refused, and cost the page: the first will do.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(parse_int=lambda digits: int(digits[:40])).raw_decode


def _walk(text: str) -> dict[str, Any] | None:
    """Return the members of the object that the text is (None: it is none), of an array `data` each item's bytes.

    Raises ValueError or IndexError where the text is no JSON.
    """
    at = _skip(text, 0)
    if text[at] != "{":
        if text[_skip(text, _scan(text, at)[1]) :]:
            raise ValueError("trailing characters")
        return None
    members: dict[str, Any] = {}
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _scan(text, at)
        if not isinstance(key, str):
            raise ValueError("a name expected")  # noqa: TRY004  # of JSON, not of Python
        at = _expect(text, at, ":")
        value, at = _elements(text, at) if key == "data" and text[at] == "[" else _scan(text, at)
        if key in {"data", "has_more"} and key in members and members[key] != value:
            raise NotAListError("not_a_list", f"`{key}` given twice, differently")
        members[key] = value
        at = _next(text, at, "}")
    if text[_skip(text, at + 1) :]:
        raise ValueError("trailing characters")
    return members


def _elements(text: str, at: int) -> tuple[list[bytes], int]:
    items = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        _, end = _scan(text, at)
        items.append(text[at:end].encode("utf-8", "surrogateescape"))
        at = _next(text, end, "]")
    return items, at + 1


def _next(text: str, at: int, end: str) -> int:
    """Step over the comma to what follows it, or stop at the closing bracket."""
    at = _skip(text, at)
    if text[at] != end:
        at = _expect(text, at, ",")
        if text[at] == end:
            raise ValueError("a comma too many")
    return at


def _expect(text: str, at: int, char: str) -> int:
    at = _skip(text, at)
    if text[at] != char:
        raise ValueError(f"{char} expected")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\n", "\r"}:
        at += 1
    return at
