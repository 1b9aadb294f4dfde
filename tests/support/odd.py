"""Strategies for JSON text with odd values: numbers, texts and bytes that no column can hold."""

import json

from hypothesis import strategies as st

numbers = st.sampled_from(
    [b"1", b"0", b"-1", b"1.5", b"100.0", b"1e2", b"1e400", b"NaN", b"-Infinity", b"9223372036854775807",
     b"9223372036854775808", b"-9223372036854775809", b"1e18", b"1e19", b"4.9e-324", b"1" * 320]
)  # fmt: skip
words = st.text(max_size=12).map(lambda text: json.dumps(text).encode()) | st.sampled_from(
    [b'"\\ud800"', b'"\\udc00\\ud800"', b'"a\\u0000"', b'"\xff"', b'"\\""', '"\N{SNOWMAN}"'.encode(), b'"":""']
)
anything = st.recursive(
    numbers | words | st.sampled_from([b"null", b"true", b"false", b"nothing"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda xs: b"[" + b",".join(xs) + b"]")
        | st.lists(st.tuples(words, inner), max_size=3).map(lambda xs: b"{" + b",".join(map(b":".join, xs)) + b"}")
    ),
    max_leaves=5,
)
