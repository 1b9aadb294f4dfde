"""Mutations of JSON documents: two thirds change bytes, one third changes values and keeps the text valid JSON."""

import copy
import json
import random
from typing import Any

TOKENS = (
    b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"-0.0", b"1.5", b"9223372036854775808", b"1" * 320, b"{}", b"[]",
    b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff"', b"\xef\xbb\xbf", b"\0", b",", b":", b'"', b"\\", b"[" * 200,
    b"{" * 80, b'"has_more": true', b'"id": 7,', b'"error": {"message": "no"},',
)  # fmt: skip
"""What is inserted between bytes, or takes the place of a value."""

_MARK = "\x01value\x01"


def mutated(document: bytes, rng: random.Random) -> bytes:
    """Return the document after one to four mutations."""
    if rng.random() < 1 / 3:
        return _with_other_values(document, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = _with_other_bytes(document, rng)
    return document


def _with_other_bytes(document: bytes, rng: random.Random) -> bytes:
    """Flip a bit, replace, remove, insert, repeat or move bytes, or cut the end off."""
    at = rng.randrange(len(document) + 1)
    end = min(at + int(rng.expovariate(0.1)) + 1, len(document))
    before, part, after = document[:at], document[at:end], document[end:]
    kind = rng.randrange(8)
    if kind == 0 and part:
        return before + bytes([part[0] ^ (1 << rng.randrange(8))]) + document[at + 1 :]
    if kind == 1:
        return before + rng.randbytes(len(part)) + after
    if kind == 2:
        return before + after
    if kind == 3:
        return before + rng.choice(TOKENS) + document[at:]
    if kind == 4:
        return before + rng.choice(TOKENS) + after
    if kind == 5:
        return before + part * rng.randrange(2, 5) + after
    if kind == 6:
        to = rng.randrange(len(before) + 1)
        return before[:to] + part + before[to:] + after
    return before if rng.random() < 0.1 else before + bytes([rng.randrange(256)]) + document[at + 1 :]


def _with_other_values(document: bytes, rng: random.Random) -> bytes:
    """Replace, remove, rename, repeat or reorder members and elements anywhere in the document."""
    root = json.loads(document)
    inserted: list[bytes] = []

    def odd() -> str:
        inserted.append(rng.choice(TOKENS[:21]))
        return f"{_MARK}{len(inserted) - 1}"

    for _ in range(rng.choice((1, 1, 2, 4))):
        parent, key = _place(root, rng)
        kind = rng.randrange(4)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = odd()
        elif kind == 2:
            parent[key] = copy.deepcopy(_value(root, rng))
        else:
            _change(parent, key, rng)
    written = json.dumps(root).encode()
    for number, token in enumerate(inserted):
        written = written.replace(json.dumps(f"{_MARK}{number}").encode(), token)
    return written


def _change(parent: Any, key: Any, rng: random.Random) -> None:
    """Repeat or reorder elements, or rename a member, change its number or wrap its value."""
    value = parent[key]
    if isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(value))
        if rng.random() < 0.5:
            rng.shuffle(parent)
    elif rng.random() < 1 / 3:
        parent[f"{key}{rng.choice((' ', '_x'))}"] = parent.pop(key)
    elif isinstance(value, int | float):
        parent[key] = rng.choice((-value, value + 1, value / 7, 10**18, 0))
    else:
        parent[key] = [value]


def _place(root: dict[str, Any], rng: random.Random) -> tuple[Any, Any]:
    """Return a random container with at least one value, and the key or index of one of them."""
    parent: Any = root
    while True:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = rng.choice(keys) if keys else None
        if key is None:
            root.setdefault("data", [])
            root["again"] = 1
            return root, "again"
        value = parent[key]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.25:
            return parent, key
        parent = value


def _value(root: dict[str, Any], rng: random.Random) -> Any:
    parent, key = _place(root, rng)
    return parent[key]
