"""An item can be larger than any that is read: then only its first bytes and its names are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.domain.raw_item import (
    LARGEST_ITEM,
    REJECT_BYTES,
    SEARCHED_BYTES,
    head,
    holding_secrets,
    names_of_large,
)

SECRET = b"canary"


@given(st.lists(st.tuples(st.integers(0, SEARCHED_BYTES // 2), st.booleans()), max_size=12))
def test_items_with_a_secret_are_found(plan: list[tuple[int, bool]]) -> None:
    """Each item with a secret is found, and no other, however the items are searched together."""
    items = [b"x" * size + (SECRET if has_secret else b"") for size, has_secret in plan]
    expected = {position for position, (_, has_secret) in enumerate(plan) if has_secret}
    assert expected == holding_secrets(items, lambda text: SECRET in text)


def test_a_search_is_bounded() -> None:
    """No text is searched that is much longer than SEARCHED_BYTES, or than the largest item that is read."""
    searched: list[int] = []

    def holds_secret(text: bytes) -> bool:
        searched.append(len(text))
        return SECRET in text

    items = [b"x" * 1000] * 1000 + [b"x" * LARGEST_ITEM, b"x" * 8_000_000]
    assert set() == holding_secrets(items, holds_secret)
    assert max(searched) <= SEARCHED_BYTES + LARGEST_ITEM + 1


def test_what_is_kept_of_a_large_item_has_no_secret() -> None:
    """A secret in what a reject keeps is found, also one that goes on behind it. One behind that is not kept."""
    large = b"x" * (LARGEST_ITEM + 1)

    def with_secret_at(position: int) -> bytes:
        return large[:position] + SECRET + large[position:]

    items = [with_secret_at(position) for position in (0, REJECT_BYTES - 3, LARGEST_ITEM)]
    assert {0, 1} == holding_secrets(items, lambda text: SECRET in text)
    assert [SECRET in head(item) for item in items] == [True, False, False]
    assert {REJECT_BYTES} == {len(head(item)) for item in items}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (b'{"x": [%s 1], "id": "a", "object": "b"}' % (b"[],[]," * 1000), ("a", "b")),
        (b'{"id": null, "object": "b"}', (None, "b")),
        (b'{"id": {"x": [1]}, "object": "b"}', (None, None)),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "id": "a"}', (None, None)),
        (b"[1]", (None, None)),
        (b"{", (None, None)),
    ],
)
def test_names(item: bytes, expected: tuple[str | None, str | None]) -> None:
    """The id and the type of a large item are read without the rest, or are unknown."""
    assert expected == names_of_large(item)
