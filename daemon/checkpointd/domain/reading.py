"""How JSON from a provider is read: one set of rules, for checkpoints and job records. Pure.

An item is read value by value. A value that cannot be used is odd: it becomes None, and its reason is kept. The caller
decides which values are important: an odd one costs the whole item (BadItemError). No rule converts a value from
another type, except that an integer may be written as a number without a fraction (1712211800.0).
"""

import json
import math
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

RawItem = bytes | msgspec.Raw
"""The JSON text of one item, as received."""

DEPTH: Final = 64
"""The most nested objects and arrays of an item."""

NAME_CHARACTERS: Final = 128
"""The most characters of a name, for example of a metric, that is stored or shown."""

TEXT_CHARACTERS: Final = 64 * 1024
"""The most characters of a text that is stored in a column."""

ODD_VALUES: Final = 20
REASON_CHARACTERS: Final = 200
"""The most odd values of an item that its reject names, and the most characters of its reason."""

LONGEST_INTEGER: Final = 64
"""Digits. A longer number is far beyond 64 bits, and is read as a float: int() raises an error for thousands of digits.
"""

SECRET_REJECT_KEY: Final = b"a secret stands in it"
"""The hash of this text is the key of a reject without bytes. It must never change: another text makes a new row."""


LATER_COUNTS: Final = "a later item on the same page has the same id and differs: that one counts"
"""The reason of the reject of an item that another one replaces."""


class Reject(NamedTuple):
    """An item that cannot be read, wholly or in part.

    `raw` are its bytes, or None if they contain a secret. `id` is the id of the item, or None if it cannot be read.
    """

    raw: bytes | None
    reason: str
    id: str | None
    is_stored: bool = False
    """True if the item is stored without the values that the reason names."""

    @property
    def key(self) -> bytes:
        """The hash that identifies the reject.

        If the item has an id, it depends on the id and the reason only. So an odd value beside a value that changes in
        every answer is one reject, and not one for each answer.
        """
        if self.id is not None:
            return sha256(f"{self.id}\n{self.reason}".encode()).digest()
        return sha256(SECRET_REJECT_KEY if self.raw is None else self.raw).digest()


SECRET_REJECT: Final = Reject(None, "it contains a secret", None)
"""The reject of every item in which the provider repeated a key."""


class BadItemError(Exception):
    """An item cannot be read. The text is the reason."""


class Odd(NamedTuple):
    """Stands for a value that cannot be used."""

    reason: str


_TOO_LONG: Final = Odd(f"more than {TEXT_CHARACTERS} characters")
_NOT_FINITE: Final = Odd("not finite")
_DOUBLED: Final = Odd("given twice with different values")
_NOT_UTF8: Final = Odd("not UTF-8")
_NOT_STORABLE: Final = Odd("has a NUL, or a lone surrogate (half a character)")

T = TypeVar("T")


def text(value: object) -> str | Odd | None:
    """Return a text that a column can hold. An empty text is None, because some servers send it instead of null."""
    if not isinstance(value, str):
        return None if value is None else Odd("not a string")
    if len(value) > TEXT_CHARACTERS:
        return _TOO_LONG
    return (value or None) if _is_storable(value) else _NOT_STORABLE


def integer(value: object) -> int | Odd | None:
    """Return an integer of 64 bits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None if value is None else Odd("not an integer")
    return value if -(2**63) <= value < 2**63 else Odd("does not fit in 64 bits")


def time(value: object) -> int | Odd | None:
    """Return a time in whole Unix seconds. A fraction of a second is dropped."""
    return integer(math.floor(value) if isinstance(value, float) and math.isfinite(value) else value)


def number(value: object) -> float | Odd | None:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None if value is None else Odd("not a number")
    try:
        found = float(value)
    except OverflowError:
        return _NOT_FINITE
    return found if math.isfinite(found) else _NOT_FINITE


class Item:
    """One JSON object, its JSON text as a column of type json accepts it, and what is odd about its values."""

    def __init__(self, raw: bytes) -> None:
        """Read the bytes of an item. Raises BadItemError if they are not a JSON object, or nested too deeply."""
        self.odd: dict[str, str] = {}
        """The reasons of the odd values by name, such as metrics.train_loss: the first ODD_VALUES of them."""
        try:
            self.payload, self._is_utf8 = raw.decode(), True
        except UnicodeDecodeError:
            self.payload, self._is_utf8 = raw.decode("utf-8", "surrogateescape"), False
        self._is_storable = self._is_utf8
        sent = self._parse()
        if not isinstance(sent, dict):
            raise BadItemError("not a JSON object")
        self.members: dict[str, Any] = self._without_odd(sent, "", DEPTH)
        """The values by name, with None for those that are odd in any place."""
        if not self._is_storable:
            # The escape of a lone surrogate stays as it is: a column of type json accepts it.
            rewritten = json.dumps(self.members, ensure_ascii=False, separators=(",", ":"))
            self.payload = rewritten.encode("utf-8", "backslashreplace").decode()

    @property
    def flaw(self) -> str | None:
        """What is odd about this item, in one line, or None if nothing is."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.odd.items())[:REASON_CHARACTERS] or None

    def read(self, name: str, rule: Callable[[object], T | Odd | None]) -> T | None:
        """Return the value with this name by a rule, or None."""
        return self.keep(name, rule(self.members.get(name)))

    def require(self, name: str, rule: Callable[[object], T | Odd | None]) -> T:
        """Return an important value by a rule. Raises BadItemError if it is absent or odd."""
        found = rule(self.members.get(name))
        if found is None or isinstance(found, Odd):
            reason = found.reason if found else self.odd.get(name, "missing")
            raise BadItemError(f"{name}: {reason}")
        return found

    def keep(self, name: str, value: T | Odd | None) -> T | None:
        """Return a value, or None if it is odd, which is recorded."""
        if not isinstance(value, Odd):
            return value
        if len(self.odd) < ODD_VALUES:
            self.odd.setdefault(name, value.reason)
        return None

    def document(self, name: str, value: object) -> str | None:
        """Return a value of any type as JSON of at most TEXT_CHARACTERS, or None.

        `name` is for the reasons of odd values in it.

        PostgreSQL stores the escapes of a NUL and of half a character in a column of type json, but every query that
        reads such a text fails.
        """
        if value is None:
            return None
        found = json.dumps(self._storable(value, name), ensure_ascii=False)
        return found if len(found) <= TEXT_CHARACTERS else self.keep(name, _TOO_LONG)

    def _parse(self) -> Any:  # noqa: ANN401  # any JSON
        """Return the value of the text, with Odd for what cannot be used. Raises BadItemError if it is not JSON.

        A text with raw control characters is read, although it is not valid JSON.
        """
        for is_strict in (True, False):
            self._is_storable = self._is_storable and is_strict
            try:
                return json.loads(
                    self.payload,
                    object_pairs_hook=_members,
                    parse_float=self._parse_float,
                    parse_int=lambda digits: (
                        int(digits) if len(digits) < LONGEST_INTEGER else self._parse_float(digits)
                    ),
                    parse_constant=self._parse_float,
                    strict=is_strict,
                )
            except RecursionError:
                raise BadItemError(f"nested deeper than {DEPTH}") from None
            except ValueError:
                continue
        raise BadItemError("not JSON")

    def _parse_float(self, digits: str) -> float | Odd:
        found = float(digits)
        if math.isfinite(found):
            return found
        self._is_storable = False
        return _NOT_FINITE

    def _without_odd(self, value: Any, name: str, depth: int) -> Any:  # noqa: ANN401  # any JSON
        """Return a value with None for each odd one in it. Raises BadItemError if it is nested deeper than `depth`."""
        if isinstance(value, Odd):
            return self.keep(name, value)
        if isinstance(value, str) and not self._is_utf8 and not _is_encodable(value):
            return self.keep(name, _NOT_UTF8)
        if not isinstance(value, (dict, list)):
            return value
        if depth == 0:
            raise BadItemError(f"nested deeper than {DEPTH}")
        if isinstance(value, list):
            return [self._without_odd(inner, name, depth - 1) for inner in value]
        if not self._is_utf8 and not all(map(_is_encodable, value)):
            self.keep(name or "a name", _NOT_UTF8)
        return {k: self._without_odd(inner, _path(name, k), depth - 1) for k, inner in value.items()}

    def _storable(self, value: object, name: str) -> object:
        """Return a value with None for each text in it that a query could not read, and without such names."""
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if _is_storable(k)}
            if len(kept) < len(value):
                self.keep(name, Odd("a name " + _NOT_STORABLE.reason))
            return {k: self._storable(inner, _path(name, k)) for k, inner in kept.items()}
        if isinstance(value, list):
            return [self._storable(inner, name) for inner in value]
        return value if not isinstance(value, str) or _is_storable(value) else self.keep(name, _NOT_STORABLE)


def printable(name: str) -> str:
    """Return a name that the provider sent, in a form that can be shown and stored anywhere: short, printable ASCII."""
    shown = name[:NAME_CHARACTERS] if name.isprintable() else "an unprintable name"
    return shown.encode("ascii", "backslashreplace").decode()


def _path(name: str, inner: str) -> str:
    return f"{name}.{printable(inner)}"[:NAME_CHARACTERS] if name else printable(inner)


def _members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object. One that is given twice with different values is odd."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = value if name not in found or found[name] == value else _DOUBLED
    return found


def _is_encodable(value: str) -> bool:
    """Return whether a text can be encoded. A lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_storable(value: str) -> bool:
    return "\0" not in value and _is_encodable(value)
