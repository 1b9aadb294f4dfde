"""An item is read strictly and by itself. What is accepted can be stored and read again; the rest has a reason."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.checkpoint import (
    METRICS,
    MODEL_CHARACTERS,
    BadItemError,
    Checkpoint,
    ForeignItemError,
    read_checkpoint,
    read_stored,
)
from support.provider import JOB, checkpoint

examples = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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
    assert "\0" not in item.payload + item.id + item.fine_tuned_model_checkpoint
    assert len(item.fine_tuned_model_checkpoint.encode()) <= 4 * MODEL_CHARACTERS
    assert 1 <= len(item.id) <= 256
    assert item.id.isascii()
    for integer in (item.step_number, item.created_at):
        assert type(integer) is int
        assert -(2**63) <= integer < 2**63
    assert {type(value) for value in item.metrics.values()} <= {float, type(None)}
    json.dumps(item.metrics, allow_nan=False)
    assert len(item.extra_metrics) <= 64
    assert all(len(name) <= 128 and "\0" not in name for name in item.extra_metrics)
    assert [name.encode().decode() for name in item.metrics] == list(item.metrics)
    assert item == read_stored(item.payload, JOB)


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
    assert "not finite: train_loss" == flaw
    assert {"train_loss": None, "valid_loss": 0.5} == item.metrics
    assert "\N{LATIN SMALL LETTER E WITH ACUTE}" == json.loads(item.payload)["note"]
    assert_storable(item)


def test_not_finite_given_twice() -> None:
    """NaN given twice is one flaw, and not two different values."""
    assert "not finite: train_loss" == read_checkpoint(raw(metrics=b'{"train_loss": NaN, "train_loss": NaN}'), JOB)[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": b'{"x": [1, NaN]}'},
        {"note": b"Infinity"},
        {"metrics": b'{"scores": {"a": NaN}}'},
        {"note": b"1e400"},
    ],
    ids=repr,
)
def test_not_finite_anywhere(fields: dict[str, bytes]) -> None:
    """NaN anywhere in an item is a flaw, because a column of type json rejects it. The rest of the item is kept."""
    item, flaw = read_checkpoint(raw(**fields), JOB)
    assert (flaw or "").startswith("not finite: ")
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
    "fields",
    [
        {"note": "x"},
        {"result_files": [{"id": "file-1", "purpose": "fine-tune"}]},
        {"note": b'"\\ud800 \\u0000"'},
        {"note": b"9" * 5},
        {"a": [1, {"b": [True, None, "c"]}]},
        {"note": b'{"a": {"b": 1, "c": 2}}, "note": {"a": {"c": 2, "b": 1}}'},
        {"fine_tuned_model_checkpoint": 'quoted "name": of a \N{SNOWMAN}'},
        {"fine_tuned_model_checkpoint": ""},
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
        (f"{field}: {reason}", {field: value})
        for field in ("step_number", "created_at")
        for reason, value in [
            ("missing", ABSENT),
            ("not an integer", None),
            ("not an integer", 1.5),
            ("not an integer", True),
            ("not an integer", "7"),
            ("not an integer", [7]),
            ("not an integer", b"NaN"),
            ("not an integer", b"1e400"),
            ("does not fit in 64 bits", 2**63),
            ("does not fit in 64 bits", -(2**63) - 1),
            ("does not fit in 64 bits", b"1e30"),
            ("does not fit in 64 bits", b"1" * 70),
        ]
    ),
    *(
        (f"{field}: {reason}", {field: value})
        for field in ("id", "object", "fine_tuned_model_checkpoint", "fine_tuning_job_id")
        for reason, value in [
            ("missing", ABSENT),
            ("not a string", None),
            ("not a string", 7),
            ("not a string", ["x"]),
            ("has a lone surrogate", b'"\\ud800"'),
        ]
    ),
    *(
        ("id: not 1 to 256 visible ASCII characters", {"id": value})
        for value in ("", "x" * 257, "a b", "a\n", "\0", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\x7f", " x")
    ),
    ("fine_tuning_job_id: names another job", {"fine_tuning_job_id": "ftjob-other"}),
    ("fine_tuning_job_id: names another job", {"fine_tuning_job_id": JOB + " "}),
    *(
        ("fine_tuned_model_checkpoint: has a NUL, or more than 65536", {"fine_tuned_model_checkpoint": value})
        for value in ("ft:\0", "x" * 65_537)
    ),
    ("metrics: not an object", {"metrics": []}),
    ("metrics: not an object", {"metrics": 0}),
    ("metrics: not an object", {"metrics": "NaN"}),
    *(("metrics.train_loss: not a number", {"metrics": {"train_loss": v}}) for v in ("0.5", "NaN", True, [], {})),
    ("metrics: a name is not printable, or longer than 128", {"metrics": {"x" * 129: 1}}),
    ("metrics: a name is not printable, or longer than 128", {"metrics": {"a\0": 1}}),
    ("metrics: a name is not printable, or longer than 128", {"metrics": {"a\n": None, "scores": {}}}),
    ("metrics: a name is not printable, or longer than 128", {"metrics": b'{"\\ud800": 1}'}),
    ("metrics: more than 64 beside", {"metrics": {str(n): 1 for n in range(65)}}),
    ("metrics: more than 64 beside", {"metrics": {str(n): 1 for n in range(65)}, "note": "x"}),
    ("train_loss: given twice", {"metrics": b'{"train_loss": 1, "train_loss": 2}'}),
    ("train_loss: given twice", {"metrics": b'{"train_loss" : 1, "train_loss" : 2}'}),
    ("train_loss: given twice", {"metrics": b'{"train_loss": 1, "train\\u005floss": 2}'}),
    ("train_loss: given twice", {"metrics": b'{"train_loss": null, "train_loss": NaN}'}),
    ("id: given twice", {"id": b'"ftckpt_1", "id": "ftckpt_2"'}),
    ("id: given twice", {"id": b'"ftckpt_1", "id" : "ftckpt_2"'}),
    ("metrics: given twice", {"metrics": b'{"step": 1}, "metrics": {"step": 2}'}),
    ("a: given twice", {"note": b'{"a": [1], "a": [2]}'}),
    ("nested deeper than 64", {"note": nested(64)}),
    ("nested deeper than 64", {"metrics": {"scores": nested(63)}}),
    ("nested deeper than 64", {"note": b"[" * 50_000 + b"]" * 50_000}),
    ("larger than 262144 bytes", {"note": "x" * 262_144}),
    ("larger than 262144 bytes", {"fine_tuned_model_checkpoint": ("\N{SNOWMAN}" * 65_000), "note": "x" * 100_000}),
    ("not UTF-8", {"note": b'"\xff"'}),
    ("not UTF-8", {"fine_tuned_model_checkpoint": b'"\xed\xa0\x80"'}),
    ("not JSON", {"note": b"nul"}),
    ("not JSON", {"note": b'"\n"'}),
]


@pytest.mark.parametrize(("expected", "fields"), REJECTED, ids=lambda value: repr(value)[:60])
def test_rejected(expected: str, fields: dict[str, Any]) -> None:
    """A value that no column can hold, or that is ambiguous, is rejected with a short, printable reason."""
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
        raw(object=""),
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


@settings(examples, max_examples=300)
@given(items())
def test_accepted_items_can_be_stored(sent: bytes) -> None:
    """Every item is either accepted, and then every column accepts it, or rejected with a short, printable reason."""
    try:
        item, flaw = read_checkpoint(sent, JOB)
    except (BadItemError, ForeignItemError) as e:
        reason: str | None = str(e)
    else:
        assert_storable(item)
        assert flaw is not None or sent.decode() == item.payload
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


@settings(examples, max_examples=300)
@given(items() | specified_items)
def test_both_readers_agree(sent: bytes) -> None:
    """With a NaN, which the fast reader rejects, an item is read as without it, but for the flaw."""
    *expected, text = outcome(sent)
    *actual, text_with_nan = outcome(b'{"added": NaN, ' + sent.removeprefix(b"{"))
    assert expected == actual
    assert text == str(text_with_nan).replace("not finite: added, ", "not finite: ").replace("not finite: added", "")


@examples
@given(st.binary(max_size=40) | anything)
def test_any_bytes(sent: bytes) -> None:
    """Bytes that are not a checkpoint are rejected or foreign. No other error is raised."""
    with pytest.raises((BadItemError, ForeignItemError)):
        read_checkpoint(sent, JOB)


def test_stored_payload_that_is_not_accepted() -> None:
    """A stored payload that this reader rejects is read as None, without an error."""
    assert read_stored("{}", JOB) is None
    assert read_stored(raw(object="other").decode(), JOB) is None
    assert read_stored(raw().decode(), "ftjob-other") is None
    assert read() == read_stored(raw().decode(), JOB)
