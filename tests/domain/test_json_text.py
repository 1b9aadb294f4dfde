"""JSON texts with the same content have one canonical form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.domain.json_text import canonical

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_the_order_of_members_and_the_format_make_no_difference(value: object) -> None:
    """A text with other blanks, other escapes and its members in another order has the same canonical form."""
    text = json.dumps(value, ensure_ascii=True, indent=1)
    assert canonical(text) is not None
    assert canonical(text) == canonical(json.dumps(_reversed(value), ensure_ascii=False, separators=(",", ":")))


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {name: _reversed(inner) for name, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": null}', "{}"),
        ('{"a": null}', '{"a": "None"}'),
        ('{"a": 1, "a": 2}', '{"a": 2}'),
        ('{"a": 1, "a": 2}', '{"a": 2, "a": 1}'),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}'),
        ('{"a": 0.1}', '{"a": 0.2}'),
        ('{"a": 1e400}', '{"a": "1e400"}'),
        (f'{{"a": {"1" * 5000}}}', f'{{"a": {"1" * 4999}2}}'),
        ("[1, 2]", "[2, 1]"),
        ('[["a", 1]]', '{"a": 1}'),
        ("{}", "[]"),
    ],
)
def test_each_other_difference_counts(one: str, other: str) -> None:
    """Texts whose values, types or repeated members differ have different canonical forms."""
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(("one", "other"), [("100", "100.0"), ("100", "1e2"), ("1.50", "1.5"), ("0", "-0")])
def test_the_notation_of_a_number_makes_no_difference(one: str, other: str) -> None:
    """A number has the same canonical form in each notation."""
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaNN"])
def test_what_is_no_json_has_no_form(text: str) -> None:
    """A text that cannot be read has no canonical form, and raises nothing."""
    assert canonical(text) is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ('{"a": 1, "t": 1}', '{"t": 2, "a": 1}', True),
        ('{"a": 1, "t": 1}', '{"a": 1}', True),
        ('{"a": 1, "t": 1}', '{"a": 2, "t": 1}', False),
        ('{"a": {"t": 1}}', '{"a": {"t": 2}}', False),
        ('["t", 1]', '["t", 2]', False),
    ],
)
def test_members_that_are_left_out(one: str, other: str, expected: bool) -> None:
    """Outer members that are left out make no difference. Others do, also those of the same name further inside."""
    assert expected == (canonical(one, {"t"}) == canonical(other, {"t"}))
