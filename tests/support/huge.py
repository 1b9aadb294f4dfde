"""Answers of a provider that are small on the wire and large in memory, or that take long to read."""

import json
from collections.abc import Callable
from typing import Any

from checkpointd.provider.http import PAGE_BYTES
from support.provider import checkpoint, job

NAME = "ftjob-NAME"
MIB = 1024 * 1024
FULL = PAGE_BYTES - 64 * 1024
"""Bytes: nearly the largest page."""

ITEM = 250 * 1024
"""Bytes: nearly the largest item."""


def _list(items: str, *, has_more: str = "false") -> bytes:
    return f'{{"object":"list","data":[{items}],"has_more":{has_more}}}'.encode()


def _filled(unit: str, size: int = FULL) -> str:
    """Return as many copies of an item as fit, separated by commas."""
    return ",".join([unit] * (size // (len(unit.encode()) + 1)))


def _items(make: Callable[[int], str], size: int = FULL) -> str:
    """Return different items, as many as fit."""
    made, left = list[str](), size
    while left > 0:
        made.append(make(len(made) + 1))
        left -= len(made[-1].encode()) + 1
    return ",".join(made[:-1])


def _item(number: int, **members: Any) -> str:
    return json.dumps({**checkpoint(number, NAME), "id": f"{NAME}-{number}", **members}, ensure_ascii=False)


def _with(number: int, extra: str) -> str:
    """Return a checkpoint with one more member, given as JSON."""
    return _item(number)[:-1] + f', "extra": {extra}}}'


def _metrics(number: int, turn: int, count: int) -> str:
    return _item(number, metrics={f"{n:x}": n * turn % 10 for n in range(count)})


PAGES: dict[str, Callable[[int], bytes]] = {
    "a million zeros": lambda _: _list(_filled("0", 2 * MIB)),
    "zeros": lambda _: _list(_filled("0")),
    "zeros, read leniently": lambda _: _list(_filled("0"), has_more="NaN"),
    "empty objects": lambda _: _list(_filled("{}")),
    "empty arrays, read leniently": lambda _: _list(_filled("[]"), has_more="NaN"),
    "an item of empty arrays": lambda _: _list(f"[{_filled('[]')}]"),
    "an item of empty arrays, read leniently": lambda _: _list(f"[{_filled('[]')}]", has_more="NaN"),
    "an error of empty arrays": lambda _: f'{{"error":[{_filled("[]")}]}}'.encode(),
    "another member of empty objects": lambda _: f'{{"other":[{_filled("{}")}],"data":[]}}'.encode(),
    "deep nesting": lambda _: b"[" * FULL,
    "deep nesting in an item": lambda _: _list("[" * (FULL // 2) + "]" * (FULL // 2)),
    "no list, many values": lambda _: f"[{_filled('[]')}]".encode(),
    "damaged at the end": lambda _: _list(_filled("[]"))[:-1],
    "a text": lambda _: _list(f'"{"x" * FULL}"'),
    "a text of wide characters": lambda _: _list(f'"{"😀" * (FULL // 4)}"'),
    "a number": lambda _: _list("7" * FULL),
    "many names": lambda _: _list("{" + _items(lambda n: f'"{n:x}":0') + "}"),
    "many names, read leniently": lambda _: _list("{" + _items(lambda n: f'"{n:x}":0') + "}", has_more="NaN"),
    "blanks": lambda _: b"{" + b" " * FULL,
    "binary": lambda _: bytes(range(256)) * (FULL // 256),
    "HTML": lambda _: b"<html>" + b"<title>" * (FULL // 7),
    "items with wide characters": lambda _: _list(_items(lambda n: _with(n, f'"😀{"x" * (ITEM - 500)}"'))),
    "items of empty arrays": lambda _: _list(_items(lambda n: _with(n, f"[{_filled('[]', ITEM - 500)}]"))),
    "items of empty objects": lambda _: _list(_items(lambda n: _with(n, f"[{_filled('{}', ITEM - 500)}]"))),
    "items of zeros": lambda _: _list(_items(lambda n: _with(n, f"[{_filled('0', ITEM - 500)}]"))),
    "items of NaN": lambda _: _list(_items(lambda n: _with(n, f"[{_filled('NaN', ITEM - 500)}]"))),
    "items of many names": lambda _: _list(
        _items(lambda n: _with(n, "{" + _items(lambda k: f'"{k:x}":0', ITEM - 500) + "}"))
    ),
    "items of large numbers": lambda _: _list(_items(lambda n: _with(n, "7" * (ITEM - 500)))),
    "items that are too large": lambda _: _list(_items(lambda n: _with(n, f'"{"x" * MIB}"'))),
    "escaped items": lambda _: _list(_items(lambda n: _with(n, f'"{chr(92)}u0041'.ljust(600, "x") + '"'))),
    "escapes": lambda _: _list(_items(lambda n: _with(n, '"' + "\\u0041&#65;%41\\\\" * ((ITEM - 500) // 16) + '"'))),
    "base64": lambda _: _list(_items(lambda n: _with(n, '"' + "YWJjZGVm" * ((ITEM - 500) // 8) + '"'))),
    "new checkpoints": lambda turn: _list(_items(lambda n: _item(n + turn * 100_000, pad="x" * 550))),
    "changing metrics": lambda turn: _list(_items(lambda n: _metrics(n, turn, 7 + 64))),
    "changing values": lambda turn: _list(
        _items(lambda n: _item(n, metrics={"train_loss": turn / n, "reward": turn}, pad="x" * 550))
    ),
    "changing values of few": lambda turn: _list(_items(lambda n: _item(n, metrics={"train_loss": turn / n}), 200_000)),
}
"""Functions that make a page from the number of the request. The items belong to the job NAME."""


def _record(number: int, extra: str) -> str:
    return json.dumps(job(f"ftjob-{number}"))[:-1] + f", {extra}}}"


RECORDS: dict[str, Callable[[int], bytes]] = {
    "zeros": lambda _: _list(_filled("0")),
    "records": lambda turn: _list(_items(lambda n: _record(n, f'"trained_tokens": {turn}, "pad": "{"x" * 700}"'))),
    "hyperparameters of 7 MB": lambda turn: _list(
        _record(turn % 16, f'"hyperparameters": {{"x": [{_filled("[]", 7 * MIB)}]}}')
    ),
    "documents": lambda turn: _list(
        _items(
            lambda n: _record(
                n % 16,
                f'"turn": {turn}, "metadata": {{"x": [{_filled("[]", ITEM // 2)}]}}, "error": ["{"😀" * 30_000}"]',
            )
        )
    ),
    "wide texts": lambda turn: _list(
        _items(lambda n: _record(n % 16, f'"turn": {turn}, "status": "😀{"x" * (ITEM // 2)}"'))
    ),
}
"""Functions that make a page of the job list from the number of the request."""
