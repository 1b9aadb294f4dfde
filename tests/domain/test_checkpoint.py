"""An item is read by itself, value by value. What is accepted can be stored and read again; the rest has a reason."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.checkpoint import (
    METRICS,
    OPENAI_READER,
    Checkpoint,
    ForeignItemError,
    read_checkpoint,
)
from checkpointd.domain.reading import TEXT_CHARACTERS, BadItemError
from support.examples import tries
from support.odd import anything, numbers, words
from support.provider import JOB, checkpoint

examples = settings(max_examples=tries(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])

ABSENT = Ellipsis


def raw(**fields: Any) -> bytes:
    """Return the bytes of an item in which these fields are replaced. A value of type bytes is used as JSON text."""
    members = {**checkpoint(7), **fields}
    texts = (
        (json.dumps(name).encode(), value if isinstance(value, bytes) else json.dumps(value).encode())
        for name, value in members.items()
        if value is not ABSENT
    )
    return b"{" + b", ".join(name + b": " + value for name, value in texts) + b"}"


def read(**fields: Any) -> Checkpoint:
    """Return the checkpoint of an item, which must have no flaw."""
    item, flaw = read_checkpoint(raw(**fields), JOB)
    assert flaw is None
    return item


def reject_reason(sent: bytes) -> str:
    """Return the reason for which an item is rejected."""
    with pytest.raises(BadItemError) as caught:
        read_checkpoint(sent, JOB)
    return str(caught.value)


def assert_storable(item: Checkpoint) -> None:
    """Assert that every column accepts its value, and that the stored payload is read as the same checkpoint."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(item.payload, parse_constant=refuse)
    assert item.payload.encode().decode() == item.payload
    model = item.fine_tuned_model_checkpoint or ""
    assert "\0" not in item.payload + item.id + model
    assert len(model.encode()) <= 4 * TEXT_CHARACTERS
    assert 1 <= len(item.id) <= 256
    assert item.id.isascii()
    for integer in (item.step_number, item.created_at or 0):
        assert type(integer) is int
        assert -(2**63) <= integer < 2**63
    assert {type(value) for value in item.metrics.values()} <= {float, type(None)}
    json.dumps(item.metrics, allow_nan=False)
    assert len(item.extra_metrics) <= 64
    assert all(len(name) <= 128 and "\0" not in name for name in item.extra_metrics)
    assert [name.encode().decode() for name in item.metrics] == list(item.metrics)
    assert item == OPENAI_READER.read_stored(item.payload, JOB)


def test_specified_item() -> None:
    """An item as specified becomes a checkpoint with its fields, its metrics and its bytes."""
    metrics = {"step": 7, "train_loss": 0.5, "full_valid_loss": None}
    item = read(metrics=metrics)
    sent = checkpoint(7)
    assert (sent["id"], 7, sent["created_at"]) == (item.id, item.step_number, item.created_at)
    assert sent["fine_tuned_model_checkpoint"] == item.fine_tuned_model_checkpoint
    assert metrics == item.metrics
    assert {} == item.extra_metrics
    assert raw(metrics=metrics).decode() == item.payload


@pytest.mark.parametrize(
    ("expected", "metrics"),
    [
        ({}, ABSENT),
        ({}, None),
        ({}, {}),
        ({"train_loss": None}, {"train_loss": None}),
        ({"train_loss": 0.0}, {"train_loss": 0}),
        ({"train_loss": 1e300}, b'{"train_loss": 1e300}'),
        ({"train_loss": 1e-320}, b'{"train_loss": 1e-320}'),
        ({"train_loss": 0.0}, b'{"train_loss": 1e-400}'),
        ({"train_loss": 2.0**64}, {"train_loss": 2**64}),
        ({"train_loss": 1e100}, {"train_loss": 10**100}),
        ({"train_mean_reward": 0.5, "step": 7.0}, {"train_mean_reward": 0.5, "step": 7}),
        ({"train_mean_reward": None}, {"train_mean_reward": None}),
        ({}, {"scores": {"a": 1}, "name": "x", "done": True, "list": [1]}),
        ({"reward": 1.0}, {"reward": 1, "scores": {"a": [1, {"b": None}]}}),
        ({"\N{GREEK SMALL LETTER LAMDA}": 1.0}, {"\N{GREEK SMALL LETTER LAMDA}": 1}),
        ({"x" * 128: 1.0}, {"x" * 128: 1}),
        ({str(n): 1.0 for n in range(64)} | {"step": 1.0}, {str(n): 1 for n in range(64)} | {"step": 1}),
        ({"train_loss": 1.0}, b'{"train_loss": 1, "train_loss": 1}'),
        ({"train_loss": 1.0}, b'{"train_loss": 1, "train_loss": 1.0}'),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_metrics(expected: dict[str, float | None], metrics: Any) -> None:
    """Every number of `metrics` is kept, with a column or without; null is None; other values are not metrics."""
    item = read(metrics=metrics)
    assert expected == item.metrics
    assert_storable(item)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1" * 400, b"1" * 5000])
def test_not_finite(number: bytes) -> None:
    """A metric that is not finite becomes None, and a flaw. The rest is kept, as JSON that a column accepts."""
    sent = raw(
        metrics=b'{"train_loss": ' + number + b', "valid_loss": 0.5}', note="\N{LATIN SMALL LETTER E WITH ACUTE}"
    )
    item, flaw = read_checkpoint(sent, JOB)
    assert "metrics.train_loss: not finite" == flaw
    assert {"train_loss": None, "valid_loss": 0.5} == item.metrics
    assert "\N{LATIN SMALL LETTER E WITH ACUTE}" == json.loads(item.payload)["note"]
    assert_storable(item)


def test_not_finite_given_twice() -> None:
    """NaN given twice is one flaw, and not two different values."""
    sent = raw(metrics=b'{"train_loss": NaN, "train_loss": NaN}')
    assert "metrics.train_loss: not finite" == read_checkpoint(sent, JOB)[1]


@pytest.mark.parametrize(
    ("flaw", "fields"),
    [
        ("usage.x: not finite", {"usage": b'{"x": [1, NaN]}'}),
        ("note: not finite", {"note": b"Infinity"}),
        ("metrics.scores.a: not finite", {"metrics": b'{"scores": {"a": NaN}}'}),
        ("note: not finite", {"note": b"1e400"}),
        ("note: not UTF-8", {"note": b'"\xff"'}),
        ("note.a: not UTF-8", {"note": b'{"a": ["\xed\xa0\x80"], "b": "\xc3\xa9"}'}),
        ("an unprintable name: not finite", {"note": b'1, "a\\u0000": NaN'}),
        ("\\u03bb: not finite", {"note": '1, "\N{GREEK SMALL LETTER LAMDA}": NaN'.encode()}),
    ],
)
def test_what_a_column_of_json_rejects(flaw: str, fields: dict[str, bytes]) -> None:
    """NaN, or a text that is not UTF-8, anywhere in an item is a flaw, and null in the payload. The rest is kept."""
    item, actual = read_checkpoint(raw(**fields), JOB)
    assert flaw == actual
    assert_storable(item)


@pytest.mark.parametrize("text", [b'"a\tb"', b'"\n"', b'"\x00"'])
def test_raw_control_characters(text: bytes) -> None:
    """A text with a raw control character is read; in the payload the character is escaped, as JSON requires."""
    item, flaw = read_checkpoint(raw(note=text), JOB)
    assert (None, json.loads(text, strict=False)) == (flaw, json.loads(item.payload)["note"])
    assert_storable(item)


@pytest.mark.parametrize(
    ("expected", "fields"),
    [
        (100, {"step_number": b"100.0"}),
        (100, {"step_number": b"1e2"}),
        (0, {"step_number": b"-0.0"}),
        (-5, {"step_number": -5}),
        (2**31, {"step_number": 2**31}),
        (2**63 - 1, {"step_number": 2**63 - 1}),
        (-(2**63), {"step_number": -(2**63)}),
        (3, {"step_number": b'3, "step_number": 3.0'}),
    ],
    ids=repr,
)
def test_integers(expected: int, fields: dict[str, Any]) -> None:
    """An integer of 64 bits is accepted, also if it is written as 100.0."""
    item = read(**fields)
    assert expected == item.step_number
    assert_storable(item)


@pytest.mark.parametrize("created_at", [0, -1, 1_721_764_800_000, 10**12])
def test_any_created_at_is_accepted(created_at: int) -> None:
    """An implausible time is kept as it was sent, because nothing depends on it."""
    assert created_at == read(created_at=created_at).created_at


@pytest.mark.parametrize(
    ("expected", "written"),
    [(1712211699, b"1712211699.25"), (1712211699, b"1712211699.0"), (1712211699, b"1.712211699e9"), (-2, b"-1.5")],
)
def test_fraction_of_a_second(expected: int, written: bytes) -> None:
    """A time is rounded down to the second, without a flaw. The payload keeps the fraction."""
    item = read(created_at=written)
    assert (expected, written.decode() in item.payload) == (item.created_at, True)
    assert_storable(item)


ODD: list[tuple[str, str, Any]] = [
    *(
        (f"created_at: {reason}", "created_at", value)
        for reason, value in [
            ("not an integer", True),
            ("not an integer", "7"),
            ("not an integer", "2024-04-04T06:21:39Z"),
            ("not an integer", [7]),
            ("not finite", b"NaN"),
            ("not finite", b"1e400"),
            ("does not fit in 64 bits", 2**63),
            ("does not fit in 64 bits", b"1e30"),
            ("does not fit in 64 bits", b"1" * 70),
            ("given twice with different values", b'1, "created_at": 2'),
        ]
    ),
    *(
        (f"fine_tuned_model_checkpoint: {reason}", "fine_tuned_model_checkpoint", value)
        for reason, value in [
            ("not a string", 7),
            ("not a string", ["x"]),
            ("not a string", {}),
            ("has a NUL, or a lone surrogate", b'"\\ud800"'),
            ("has a NUL, or a lone surrogate", "ft:\0"),
            ("more than 65536 characters", "x" * 65_537),
            ("not UTF-8", b'"\xed\xa0\x80"'),
            ("given twice with different values", b'"a", "fine_tuned_model_checkpoint": "b"'),
        ]
    ),
    *(("metrics: not an object", "metrics", value) for value in ([], 0, "NaN", True)),
    ("metrics: given twice", "metrics", b'{"step": 1}, "metrics": {"step": 2}'),
]


@pytest.mark.parametrize(("flaw", "field", "value"), ODD, ids=lambda value: repr(value)[:60])
def test_odd_unimportant_value(flaw: str, field: str, value: Any) -> None:
    """An odd value of a field that is not important is None, and a flaw. Every other value is kept."""
    item, actual = read_checkpoint(raw(**{field: value}), JOB)
    assert actual is not None
    assert actual.startswith(flaw)
    assert (getattr(item, field) or None) is None
    expected = read()
    for other in {"id", "step_number", "created_at", "fine_tuned_model_checkpoint", "metrics"} - {field}:
        assert getattr(expected, other) == getattr(item, other)
    assert_storable(item)


@pytest.mark.parametrize(
    "fields",
    [{field: value} for field in ("created_at", "fine_tuned_model_checkpoint", "metrics") for value in (None, ABSENT)]
    + [{"fine_tuning_job_id": value} for value in (None, "", ABSENT)],
    ids=repr,
)
def test_absent_unimportant_value(fields: dict[str, Any]) -> None:
    """A value that is absent or null, or an empty text, is None, without a flaw."""
    item = read(**fields)
    assert all((getattr(item, field, None) or None) is None for field in fields)
    assert_storable(item)


@pytest.mark.parametrize(
    ("expected", "flaw", "metrics"),
    [
        *(
            ({"valid_loss": 0.4}, "metrics.train_loss: not a number", {"train_loss": v})
            for v in ("0.5", "NaN", True, [])
        ),
        ({"valid_loss": 0.4}, "metrics: a name is not printable", {"x" * 129: 1}),
        ({"valid_loss": 0.4}, "metrics: a name is not printable", {"a\0": 1}),
        ({"valid_loss": 0.4}, "metrics: a name is not printable", {"a\n": None, "scores": {}}),
        (
            {"valid_loss": 0.4},
            "metrics.train_loss: given twice",
            b'{"train_loss": 1, "train_loss": 2, "valid_loss": 0.4}',
        ),
        (
            {"valid_loss": 0.4},
            "metrics.train_loss: given twice",
            b'{"train_loss": null, "train_loss": NaN, "valid_loss": 0.4}',
        ),
        ({"valid_loss": 0.4}, "metrics.reward: given twice", b'{"reward": 1, "reward": 2, "valid_loss": 0.4}'),
        (
            {"valid_loss": 0.4} | {f"{n:03}": 1.0 for n in range(64)},
            "metrics: more than 64 beside",
            {f"{n:03}": 1 for n in reversed(range(200))},
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_odd_metric(expected: dict[str, float], flaw: str, metrics: Any) -> None:
    """An odd metric is None or left out, and a flaw. The other metrics are kept."""
    sent = metrics if isinstance(metrics, bytes) else {**metrics, "valid_loss": 0.4}
    item, actual = read_checkpoint(raw(metrics=sent), JOB)
    assert actual is not None
    assert actual.startswith(flaw)
    assert expected == {name: value for name, value in item.metrics.items() if value is not None}
    assert_storable(item)


def test_flaw_of_many_values_is_short() -> None:
    """However many values of an item are odd, the flaw is one short line."""
    item, flaw = read_checkpoint(raw(note=b"{" + b",".join(b'"%d": NaN' % n for n in range(9999)) + b"}"), JOB)
    assert 200 == len(flaw or "")
    assert_storable(item)


@pytest.mark.parametrize(
    "fields",
    [
        {"note": "x"},
        {"result_files": [{"id": "file-1", "purpose": "fine-tune"}]},
        {"note": b'"\\ud800 \\u0000"'},
        {"note": b"9" * 5},
        {"a": [1, {"b": [True, None, "c"]}]},
        {"note": b'{"a": {"b": 1, "c": 2}}, "note": {"a": {"c": 2, "b": 1}}'},
        {"fine_tuned_model_checkpoint": 'quoted "name": of a \N{SNOWMAN}'},
        {"id": "!" + "~" * 255},
        {"id": b'"ftckpt_\\u0031"'},
    ],
    ids=repr,
)
def test_unknown_members_are_kept(fields: dict[str, Any]) -> None:
    """Unknown members and unusual strings are accepted, and stay in the payload byte for byte."""
    item = read(**fields)
    assert raw(**fields).decode() == item.payload
    assert_storable(item)


def nested(depth: int) -> list[Any]:
    """Return `depth` nested lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


REJECTED: list[tuple[str, dict[str, Any]]] = [
    *(
        (f"step_number: {reason}", {"step_number": value})
        for reason, value in [
            ("missing", ABSENT),
            ("missing", None),
            ("not an integer", 1.5),
            ("not an integer", True),
            ("not an integer", "7"),
            ("not an integer", [7]),
            ("not finite", b"NaN"),
            ("not finite", b"1e400"),
            ("does not fit in 64 bits", 2**63),
            ("does not fit in 64 bits", -(2**63) - 1),
            ("does not fit in 64 bits", b"1e30"),
            ("does not fit in 64 bits", b"1" * 70),
            ("given twice", b'7, "step_number": 8'),
        ]
    ),
    *(
        (f"{field}: {reason}", {field: value})
        for field in ("id", "object")
        for reason, value in [
            ("missing", ABSENT),
            ("missing", None),
            ("not a string", 7),
            ("not a string", ["x"]),
            ("not UTF-8", b'"\xff"'),
        ]
    ),
    ("id: missing", {"id": ""}),
    ("id: has a NUL, or a lone surrogate", {"id": b'"\\ud800"'}),
    *(
        ("id: not 1 to 256 visible ASCII characters", {"id": value})
        for value in ("x" * 257, "a b", "a\n", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\x7f", " x")
    ),
    *(
        ("fine_tuning_job_id: names another job", {"fine_tuning_job_id": value})
        for value in (
            "ftjob-other",
            JOB + " ",
            7,
            ["x"],
            b'"\\ud800"',
            f'"{JOB}", "fine_tuning_job_id": "x"'.encode(),
        )
    ),
    ("id: given twice", {"id": b'"ftckpt_1", "id": "ftckpt_2"'}),
    ("id: given twice", {"id": b'"ftckpt_1", "id" : "ftckpt_2"'}),
    ("nested deeper than 64", {"note": nested(64)}),
    ("nested deeper than 64", {"metrics": {"scores": nested(63)}}),
    ("nested deeper than 64", {"note": b"[" * 50_000 + b"]" * 50_000}),
    ("larger than 262144 bytes", {"note": "x" * 262_144}),
    ("larger than 262144 bytes", {"fine_tuned_model_checkpoint": ("\N{SNOWMAN}" * 65_000), "note": "x" * 100_000}),
    ("not JSON", {"note": b"nul"}),
]


@pytest.mark.parametrize(("expected", "fields"), REJECTED, ids=lambda value: repr(value)[:60])
def test_rejected(expected: str, fields: dict[str, Any]) -> None:
    """An odd important value costs its item, as does an item beyond a limit. The reason is short and printable."""
    reason = reject_reason(raw(**fields))
    assert reason.startswith(expected)
    assert reason.isprintable()
    assert len(reason) < 250


@pytest.mark.parametrize("sent", [b"7", b"null", b"[]", b'"x"', b"NaN", b"", b"{", b"1" * 5000])
def test_no_object(sent: bytes) -> None:
    """A value that is not a JSON object is rejected."""
    assert reject_reason(sent) in {"not a JSON object", "not JSON"}


def test_limits_are_reached() -> None:
    """An item at the limits of size, depth and length is accepted, and one more byte is not."""
    assert_storable(read(note=nested(63)))
    assert_storable(read(fine_tuned_model_checkpoint="x" * 65_536))
    space = 262_144 - len(raw(note=""))
    assert 262_144 == len(read(note="x" * space).payload)
    assert "larger than 262144 bytes" == reject_reason(raw(note="x" * (space + 1)))


def test_bytes_are_counted_not_characters() -> None:
    """An item of more than 256 KiB in UTF-8 is rejected, although it has fewer characters."""
    model = json.dumps("\N{GRINNING FACE}" * 65_536, ensure_ascii=False).encode()
    assert "larger than 262144 bytes" == reject_reason(raw(fine_tuned_model_checkpoint=model))


@pytest.mark.parametrize(
    "sent",
    [
        raw(object="fine_tuning.job.event"),
        raw(object="fine_tuning.job.checkpoint "),
        raw(object=b'"\\ud800"'),
        raw(object="fine_tuning.job", step_number="seven", id=None),
        b'{"object": "fine_tuning.job.event", "id": "ftevent-1", "created_at": 1, "level": "info", "message": "hi"}',
        b'{"object": "model", "id": "gpt-4o", "x": NaN}',
        b'{"object": "a\\u0000b"}',
    ],
    ids=lambda value: repr(value[:60]),
)
def test_foreign(sent: bytes) -> None:
    """An item of another type is foreign, and not a bad checkpoint, even if other members are bad, too."""
    with pytest.raises(ForeignItemError) as caught:
        read_checkpoint(sent, JOB)
    assert str(caught.value).isprintable()


names = st.sampled_from([b'"train_loss"', b'"step"', b'"reward"', b'"reward" ', b'"a\\u0000"']) | words
metrics = st.lists(st.tuples(names, numbers | anything), max_size=4).map(
    lambda pairs: b"{" + b",".join(map(b":".join, pairs)) + b"}"
)


@st.composite
def items(draw: st.DrawFn) -> bytes:
    """Draw an item of which up to three members are replaced, removed, repeated or added."""
    members = [(json.dumps(k).encode(), json.dumps(v).encode()) for k, v in checkpoint(7).items()]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(members) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                members[at] = (members[at][0], draw(numbers | anything))
            case 1:
                del members[at]
            case 2:
                members.append((members[at][0] + draw(st.sampled_from([b"", b" "])), members[at][1]))
            case 3:
                members.append((draw(words), draw(anything)))
            case _:
                members.append((b'"metrics"', draw(metrics)))
                members = [m for m in members[:-1] if m[0] != b'"metrics"'] + members[-1:]
    return b"{" + draw(st.sampled_from([b",", b", ", b"\n,"])).join(map(b":".join, members)) + b"}"


@settings(examples, max_examples=tries(300))
@given(items())
def test_accepted_items_can_be_stored(sent: bytes) -> None:
    """Every item is either accepted, and then every column accepts it, or rejected with a short, printable reason."""
    try:
        item, flaw = read_checkpoint(sent, JOB)
    except (BadItemError, ForeignItemError) as e:
        reason: str | None = str(e)
    else:
        assert_storable(item)
        assert flaw is not None or json.loads(sent, strict=False) == json.loads(item.payload)
        reason = flaw
    assert reason is None or (reason.isprintable() and len(reason) < 250)


specified_items = st.builds(
    lambda model, step, metrics, layout: json.dumps(
        {**checkpoint(7), "fine_tuned_model_checkpoint": model, "step_number": step, "metrics": metrics}, **layout
    ).encode(),
    st.text(max_size=8),
    st.integers(-(2**64), 2**64) | st.floats(),
    st.dictionaries(
        st.sampled_from([*METRICS, "reward"]) | st.text(max_size=8), st.none() | st.integers() | st.floats()
    ),
    st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}]),
)


def outcome(sent: bytes) -> tuple[object, ...]:
    """Return what reading an item gives: the error, or the checkpoint without its payload and the flaw."""
    try:
        item, flaw = read_checkpoint(sent, JOB)
    except (BadItemError, ForeignItemError) as e:
        return type(e), str(e)
    return item.id, item.step_number, item.created_at, item.fine_tuned_model_checkpoint, item.metrics, flaw or ""


@settings(examples, max_examples=tries(300))
@given(items() | specified_items)
def test_both_readers_agree(sent: bytes) -> None:
    """With a NaN, which the fast reader rejects, an item is read as without it, but for the flaw."""
    *expected, text = outcome(sent)
    *actual, text_with_nan = outcome(b'{"added": NaN, ' + sent.removeprefix(b"{"))
    assert expected == actual
    with_nan = "; ".join(part for part in str(text_with_nan).split("; ") if part != "added: not finite")
    assert str(text).startswith(with_nan) if with_nan else not text


@settings(examples, max_examples=tries(300))
@given(st.sampled_from(sorted({*checkpoint(7), "note"})), anything)
def test_any_value_in_any_field(field: str, value: bytes) -> None:
    """Any JSON in any field costs that field at most, or its item if the field is important."""
    try:
        item, flaw = read_checkpoint(raw(**{field: value}), JOB)
    except ForeignItemError:
        assert "object" == field
    except BadItemError as e:
        reason = str(e)
        assert field in {"id", "object", "step_number", "fine_tuning_job_id"} or "not JSON" == reason
    else:
        assert_storable(item)
        assert (flaw or field).startswith(field)
        for other in {"id", "step_number", "created_at", "fine_tuned_model_checkpoint", "metrics"} - {field}:
            assert getattr(read(), other) == getattr(item, other)


@examples
@given(st.binary(max_size=40) | anything)
def test_any_bytes(sent: bytes) -> None:
    """Bytes that are not a checkpoint are rejected. No other error is raised."""
    with pytest.raises(BadItemError):
        read_checkpoint(sent, JOB)


def test_stored_payload_that_is_not_accepted() -> None:
    """A stored payload that this reader rejects is read as None, without an error."""
    assert OPENAI_READER.read_stored("{}", JOB) is None
    assert OPENAI_READER.read_stored(raw(object="other").decode(), JOB) is None
    assert OPENAI_READER.read_stored(raw().decode(), "ftjob-other") is None
    assert read() == OPENAI_READER.read_stored(raw().decode(), JOB)
