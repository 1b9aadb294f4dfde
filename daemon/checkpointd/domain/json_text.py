"""Take JSON text apart without recursion, so that deep nesting in one value affects no other. Pure.

The standard library and msgspec read nested values by recursion, and fail for the whole text if one value in it is
nested too deeply. `Scanner` reads the outer members itself, and steps over such a value by matching its brackets.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final

UNREADABLE: Final = object()
"""Stands for a value that is nested too deeply to be read, or given twice with different values."""

MOST_DIGITS: Final = 1000
"""A longer integer is compared as text, because int() raises an error for thousands of digits."""

# int() raises an error for thousands of digits, which would make the whole text fail: only the first 40 are used.
_decoder = json.JSONDecoder(parse_int=lambda digits: int(digits[:40]), strict=False)
_decode_value: Callable[[str, int], tuple[Any, int]] = _decoder.raw_decode

_blanks = re.compile(r"[ \t\n\r]+").match
_next_tokens = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL).finditer
"""Finds strings and brackets. A single quotation mark is a string without an end."""

_CLOSING: Final = {"[": "]", "{": "}"}


def outer_members(raw: bytes) -> dict[str, Any]:
    """Return the members of a JSON object, with UNREADABLE for some. Empty for any other text."""
    found: dict[str, Any] = {}
    with suppress(ValueError, IndexError):
        for name, value in Scanner(raw.decode("utf-8", "surrogateescape")).members() or ():
            found[name] = value if name not in found or found[name] == value else UNREADABLE
    return found


def canonical(text: str, without: Collection[str] = ()) -> str | None:
    """Return a form of JSON text that is equal for two texts with the same content, or None if it cannot be read.

    Blanks, the order of members, escapes and the notation of numbers make no difference. Everything else does, also
    repeated members and the type of a value. Outer members whose names are in `without` make none.
    """
    try:
        content = _decode_content(text)
        if without and isinstance(content, tuple):
            content = tuple(member for member in content if member[0] not in without)
        return repr(content)
    except (ValueError, RecursionError):
        return None


def _number(digits: str) -> int | float | set[str]:
    """Return a number: 100.0 and 1e2 are 100. One that Python cannot read is a set of its digits, unlike any value."""
    if digits.lstrip("-").isdecimal():
        return int(digits) if len(digits) <= MOST_DIGITS else {digits}
    value = float(digits)
    if not math.isfinite(value):
        return {digits}
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


# An object becomes a tuple of its sorted members, and so differs from an array, which is a list. The sort is stable:
# the last one of repeated members counts, so their order stays.
_decode_content = json.JSONDecoder(
    object_pairs_hook=lambda members: tuple(sorted(members, key=itemgetter(0))),
    parse_int=_number,
    parse_float=_number,
    parse_constant=lambda name: {name},
).decode


class Scanner:
    """Reads a JSON text from left to right. Its methods raise ValueError or IndexError if the text is not JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self, split: str | None = None) -> list[tuple[str, Any]] | None:
        """Return the members of the JSON object, or None for JSON that is not an object.

        An array with the name `split` is a list of the bytes of each item.
        """
        members = list(self._members(split)) if self._next() == "{" else None
        if members is None:
            self._value()
        if self._skip_blanks() < len(self._text):
            raise ValueError("trailing characters")
        return members

    def _members(self, split: str | None) -> Iterator[tuple[str, Any]]:
        for _ in self._entries("{", "}"):
            name = self._value()
            if not isinstance(name, str):
                raise ValueError("a name expected")  # noqa: TRY004  # of JSON, not of Python
            self._take(":")
            yield name, self._items() if name == split and self._next() == "[" else self._value()

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
        start = self._skip_blanks()
        try:
            value, self._at = _decode_value(self._text, start)
        except RecursionError:
            value, self._at = UNREADABLE, self._end_of_nested(start)
        return value

    def _end_of_nested(self, start: int) -> int:
        """Return the position after the object or array that begins at `start`."""
        expected: list[str] = []
        for token in _next_tokens(self._text, start):
            bracket = token[0]
            if bracket in _CLOSING:
                expected.append(_CLOSING[bracket])
            elif bracket == '"' or (len(bracket) == 1 and bracket != expected.pop()):
                break
            if not expected:
                return token.end()
        raise ValueError("brackets do not match")

    def _take(self, char: str) -> None:
        if self._next() != char:
            raise ValueError(f"{char} expected")
        self._at += 1

    def _next(self) -> str:
        return self._text[self._skip_blanks()]

    def _skip_blanks(self) -> int:
        """Step over blanks, and return the position of what follows them."""
        blanks = _blanks(self._text, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._at
