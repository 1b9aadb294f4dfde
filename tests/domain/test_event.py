"""Events are read value by value: recorded shapes, nulls, unknown values, and what the columns can reproduce."""

import json
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.domain import event_list
from checkpointd.domain.checkpoint import EXTRA_METRICS
from checkpointd.domain.event import STEP_BYTES, STEP_METRICS, STEP_PAYLOAD_BYTES, Message, Step, read_event
from checkpointd.domain.event_list import (
    ABSENT_GAP,
    LONGEST_BACK_OFF,
    EventListLease,
    new_steps,
    newest_of_each_step,
    next_gap,
    of_list,
    read_events,
)
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.reading import SECRET_REJECT, BadItemError

OPENAI: dict[str, Any] = {
    "id": "ftevent-RGff0123456789abcdefghij",
    "created_at": 1745810630,
    "level": "info",
    "object": "fine_tuning.job.event",
    "type": "metrics",
    "message": "Step 200/200: training loss=1.14, validation loss=1.13, full validation loss=1.12",
    "data": {
        "step": 200,
        "total_steps": 200,
        "train_loss": 1.1376,
        "train_mean_token_accuracy": 0.75,
        "valid_loss": 1.1295,
        "valid_mean_token_accuracy": 0.75,
        "full_valid_loss": 1.1193,
        "full_valid_mean_token_accuracy": 0.7925,
    },
}
"""As recorded in 2025."""

AZURE: dict[str, Any] = {
    **OPENAI,
    "id": "ftevent-008dc754dc9e61b008dc754dc9e61b00",
    "message": "Step 100: training loss=0.0016",
    "data": {name: value for name, value in OPENAI["data"].items() if name != "total_steps"}
    | {"step": 100, "train_loss": 0.00162345},
}
"""As in Microsoft's tutorial: without total_steps."""

AZURE_MESSAGE = {
    "id": "b9c5b3a1-0000-4000-8000-0123456789ab",
    "created_at": 1715824115,
    "level": "info",
    "message": "Job succeeded.",
    "object": "fine_tuning.job.event",
    "type": "message",
}

BEDROCK: dict[str, Any] = {
    "id": "ftevent-c3c14785-4a3b-4dab-99a5-a15aeb6c0742",
    "created_at": 1771442218,
    "level": "info",
    "message": "Step 4/67: training metrics",
    "object": "fine_tuning.job.event",
    "type": "metrics",
    "data": {
        "total_steps": 67,
        "actor_grad_norm": 0.00087,
        "response_length_mean": 519.09,
        "step": 4,
        "actor_pg_loss": 0.1015,
        "critic_rewards_mean": 0.4375,
        "actor_entropy": 0.6236,
        "critic_advantages_mean": 0.0136,
    },
}
"""As recorded in 2026."""


def _read(item: object) -> Step:
    event, flaw = read_event(json.dumps(item).encode())
    assert flaw is None
    assert isinstance(event, Step)
    return event


def _with(**data: Any) -> dict[str, Any]:
    return OPENAI | {"data": OPENAI["data"] | data}


def test_recorded_steps() -> None:
    """Recorded events become steps with each of their values, and need no payload."""
    assert Step(
        200, OPENAI["id"], 1745810630, 200, 1.1376, 0.75, 1.1295, 0.75, 1.1193, 0.7925, None, None,
    ) == _read(OPENAI)  # fmt: skip
    azure = _read(AZURE)
    assert (100, None, 0.00162345, None) == (azure.step_number, azure.total_steps, azure.train_loss, azure.payload)
    bedrock = _read(BEDROCK)
    assert (4, 67, None, None) == (bedrock.step_number, bedrock.total_steps, bedrock.train_loss, bedrock.payload)
    expected = {name: value for name, value in BEDROCK["data"].items() if name not in {"step", "total_steps"}}
    assert expected == json.loads(bedrock.extra_metrics or "")


@pytest.mark.parametrize("data", [None, {}, "absent"])
def test_messages(data: Any) -> None:
    """A message is one whether its data is null, empty or absent, and needs no payload."""
    item = AZURE_MESSAGE if data == "absent" else {**AZURE_MESSAGE, "data": data}
    expected = Message(item["id"], 1715824115, "info", "message", "Job succeeded.", None)
    assert (expected, None) == read_event(json.dumps(item).encode())


def test_unreported_metrics_are_null() -> None:
    """A metric that is absent or null is None: never zero. A zero is zero."""
    step = _read(OPENAI | {"message": "Step 1: training metrics", "data": {"step": 1, "valid_loss": None}})
    assert [None] * 6 == [getattr(step, name) for name in STEP_METRICS]
    assert 0.0 == _read(_with(train_loss=0)).train_loss


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "Step 200/200: something else"},
        {"message": "Step 200/200: training loss=1.15"},
        {"message": "Step 199/200: training loss=1.14"},
        {"level": "warn"},
        {"unknown": 1},
        {"data": {"step": 200, "train_loss": 1.1376, "usage": {"samples": 3}}},
        {"data": {"step": 200, "train_loss": 1.1376, "scores": [0.5]}},
        {"data": {"step": 200, "train_loss": 1.1376, "note": "text"}},
    ],
)
def test_what_no_column_has_stays_in_the_payload(changes: dict[str, Any]) -> None:
    """The payload of a step is kept if a message, a member or a value of it is in no column."""
    item = OPENAI | changes
    step = _read(item)
    assert item == json.loads(step.payload or "")
    assert 1.1376 == step.train_loss
    assert step.extra_metrics is None


def test_messages_with_more_keep_their_payload() -> None:
    """The payload of a message is kept if it has data, or a member without a column."""
    for more in ({"data": {"file": "x"}}, {"hash": "x"}, {"progress": 0.5}, {"type": "data", "progress": 0.5}):
        item = AZURE_MESSAGE | more
        event, _ = read_event(json.dumps(item).encode())
        assert item == json.loads(event.payload or "")


@pytest.mark.parametrize("item", [AZURE_MESSAGE, AZURE_MESSAGE | {"type": "data"}, OPENAI])
def test_a_member_that_is_given_twice(item: dict[str, Any]) -> None:
    """A member that is given twice with different values is odd, in a message as in a step."""
    raw = json.dumps(item | {"created_at": 1}).removesuffix("}") + ', "created_at": 2}'
    event, flaw = read_event(raw.encode())
    assert "created_at: given twice with different values" == flaw
    assert event.created_at is None
    assert event.payload == raw


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (OPENAI | {"id": ""}, "id: missing"),
        (OPENAI | {"id": "a b"}, "id: not 1 to 256 visible ASCII characters"),
        (OPENAI | {"object": "fine_tuning.job.checkpoint"}, "object: fine_tuning.job.checkpoint"),
        (_with(step="200"), "data.step: not an integer"),
        (_with(step=1.5), "data.step: not an integer"),
        (_with(step=1e300), "data.step: does not fit in 64 bits"),
        (_with(step=float("nan")), "data.step: not finite"),
        ([1], "not a JSON object"),
    ],
)
def test_unreadable_events(item: Any, reason: str) -> None:
    """An event whose id or step cannot be used is rejected, with the reason."""
    with pytest.raises(BadItemError, match=reason):
        read_event(json.dumps(item).encode())


@pytest.mark.parametrize(
    ("item", "flaw"),
    [
        (_with(train_loss="1.1"), "data.train_loss: not a number"),
        (_with(train_loss=float("nan")), "data.train_loss: not finite"),
        (_with(total_steps=2.5), "data.total_steps: not an integer"),
        (OPENAI | {"created_at": "now"}, "created_at: not an integer"),
        (OPENAI | {"level": 3}, "level: not a string"),
        (AZURE_MESSAGE | {"data": [1]}, "data: not an object"),
    ],
)
def test_an_odd_value_costs_only_itself(item: Any, flaw: str) -> None:
    """Any other value that cannot be used is null, and the flaw names it."""
    event, found = read_event(json.dumps(item).encode())
    assert flaw == found
    assert item["id"] == event.id
    assert event.payload is not None


def test_numbers_beside_the_columns() -> None:
    """At most so many numbers without a column are kept, those with the first names; the payload has all."""
    step, flaw = read_event(json.dumps(_with(**{f"m{n:03d}": n for n in range(EXTRA_METRICS + 1)})).encode())
    assert isinstance(step, Step)
    assert flaw == f"data: more than {EXTRA_METRICS} numbers beside the specified ones"
    assert EXTRA_METRICS == len(json.loads(step.extra_metrics or ""))
    assert step.payload is not None


def test_large_events() -> None:
    """A step of an event that is too large has its columns, and no payload. The reject of the event says so."""
    large = _with(usage={"x": "y" * STEP_PAYLOAD_BYTES})
    (step,) = (read := read_events([json.dumps(large).encode()])).steps
    assert (200, 1.1376, None, None) == (step.step_number, step.train_loss, step.extra_metrics, step.payload)
    reason = f"not kept as received: more than {STEP_PAYLOAD_BYTES} bytes"
    assert [(f"the event: {reason}", True, large)] == [
        (reject.reason, reject.is_stored, json.loads(reject.raw or b"")) for reject in read.rejects
    ]
    many = _with(**{f"{n:0100d}": n for n in range(EXTRA_METRICS)})
    step, flaw = read_event(json.dumps(many).encode())
    assert isinstance(step, Step)
    assert (None, many) == (step.extra_metrics, json.loads(step.payload or ""))
    assert f"data: not kept as received: more than {STEP_BYTES} bytes" == flaw
    small = _with(usage={"x": "y" * (STEP_PAYLOAD_BYTES - 1000)})
    assert small == json.loads(_read(small).payload or "")


_finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.none() | st.integers(0, 2**53 - 1),
    st.dictionaries(st.sampled_from(STEP_METRICS), st.none() | _finite),
    st.dictionaries(st.text(max_size=5), _finite, max_size=3),
)
def test_every_number_is_read(step: int, total: int | None, metrics: dict[str, Any], extra: dict[str, float]) -> None:
    """Whatever numbers a step has, each is read exactly, and the event can be made again from its fields."""
    extra = {f"x{name}": value for name, value in extra.items() if name.isprintable()}
    data = {"step": step, "total_steps": total, **metrics, **extra}
    message = f"Step {step}" + (f"/{total}" if total is not None else "") + ": training metrics"
    event = _read(OPENAI | {"message": message, "data": data})
    assert (step, total) == (event.step_number, event.total_steps)
    assert [metrics.get(name) for name in STEP_METRICS] == [getattr(event, name) for name in STEP_METRICS]
    assert extra == json.loads(event.extra_metrics or "{}")
    assert event.payload is None or "\\" in event.payload or total is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_any_data_is_read_or_rejected(value: object) -> None:
    """Whatever stands in any place, an event is read or rejected: no other error is raised."""
    for item in (value, OPENAI | {"data": value}, _with(step=value), _with(train_loss=value), _with(other=value)):
        read = read_events([json.dumps(item).encode()])
        assert 1 <= len(read.steps) + len(read.messages) + len(read.rejects) <= 2


LISTED = [
    *(json.dumps(item) for item in (OPENAI, AZURE, AZURE_MESSAGE, BEDROCK, OPENAI | {"data": {}})),
    *(json.dumps(OPENAI | change) for change in ({"level": "warn"}, {"unknown": 1}, {"data": None}, {"message": "é"})),
    json.dumps(AZURE_MESSAGE | {"message": 'a "quoted" text'}),
    json.dumps(_with(train_loss="odd")),
    json.dumps(OPENAI, indent=2),
    json.dumps(AZURE_MESSAGE).removesuffix("}") + ', "level": "info"}',
    json.dumps(OPENAI).replace('"step": 200', '"step": 200, "step": 201'),
    json.dumps(AZURE_MESSAGE).removesuffix("}") + ', "data": {"x": 1}, "data": {}}',
]
"""Items as specified, and others."""


@given(st.lists(st.sampled_from(LISTED), max_size=8), st.integers(1, 4))
def test_items_are_read_together_as_alone(listed: list[str], at_once: int) -> None:
    """A page has the events of its items, in their order, whichever other items are beside them."""
    items = [re.sub(r'("id": )"[^"]*"', rf'\1"ftevent-{n}"', item).encode() for n, item in enumerate(listed)]
    events = []
    for item in items:
        with suppress(BadItemError):
            events.append(read_event(item)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_list, "ITEMS_AT_ONCE", at_once)
        read = read_events(items)
    assert [event for event in events if isinstance(event, Step)] == read.steps
    assert [event for event in events if isinstance(event, Message)] == read.messages
    assert [event.id for event in events] == read.ids


def test_a_page() -> None:
    """Of events with the same id the last one counts; one with a secret is a reject without bytes; the order shows."""
    items = [OPENAI, AZURE_MESSAGE, _with(train_loss=1), {**AZURE_MESSAGE, "id": "secret"}]
    read = read_events([json.dumps(item).encode() for item in items], lambda raw: b"secret" in raw)
    assert [1.0] == [step.train_loss for step in read.steps]
    assert [OPENAI["id"], AZURE_MESSAGE["id"]] == read.ids
    assert SECRET_REJECT in read.rejects
    assert read.is_newest_first
    assert not read_events([json.dumps(item).encode() for item in (AZURE_MESSAGE, OPENAI)]).is_newest_first
    foreign = read_events([json.dumps(OPENAI | {"object": "thing"}).encode()])
    assert "thing" == foreign.foreign


def test_the_newest_of_each_step() -> None:
    """The newest event of a step is that with the latest time or, of the same second, the one listed first."""
    one, two, three = (_read(OPENAI | {"id": name, "created_at": at}) for name, at in (("a", 5), ("b", 7), ("c", 7)))
    assert [False, True, False] == newest_of_each_step([one, two, three])
    assert [True, False] == newest_of_each_step([msgspec.structs.replace(one, created_at=None), two])


def test_new_steps() -> None:
    """The new steps of a page are those before the first known event, whatever that is."""
    listed = [OPENAI | {"id": "a"}, AZURE_MESSAGE, OPENAI | {"id": "c"}, AZURE_MESSAGE | {"id": "d"}, OPENAI]
    page = read_events([json.dumps(item).encode() for item in listed])
    for known, new in (({"d", OPENAI["id"]}, ["a", "c"]), ({"a"}, []), (set(), ["a", "c", OPENAI["id"]])):
        assert new == [step.id for step in new_steps(page, known)]


def test_gaps() -> None:
    """The gap grows with the time since the end, doubles with failures, and is a day without a list."""
    lease = EventListLease(1, "ftjob-a", 1, None, False, None, 0, None, None, None, None, 0, None)
    broken, absent = Failure(ErrorClass.SERVER_ERROR, "x", status=500), Failure(ErrorClass.MISSING, "x", status=404)
    assert 300 == next_gap(300, lease, None)
    assert 2500 == next_gap(300, lease._replace(settling_seconds=10_000), None)
    assert [600, 1200, 2400] == [next_gap(300, lease._replace(failures=n), broken) for n in range(3)]
    assert LONGEST_BACK_OFF == next_gap(300, lease._replace(failures=40), broken)
    again = lease._replace(failures=1, error_class="missing")
    assert [600, ABSENT_GAP] == [next_gap(300, each, absent) for each in (lease, again)]
    assert 1200 == next_gap(300, again._replace(error_class="timeout"), absent)
    assert 1200 == next_gap(300, again, broken)


def test_which_failures_say_that_there_is_no_list() -> None:
    """An answer that there is no such list has the class `missing`, except that a cursor can be lost."""
    for status, error_class in (
        (404, ErrorClass.GATEWAY), (405, ErrorClass.BAD_REQUEST), (501, ErrorClass.SERVER_ERROR),
    ):  # fmt: skip
        assert ErrorClass.MISSING is of_list(Failure(error_class, "x", status=status)).error_class
    for status, error_class in ((404, ErrorClass.CURSOR_LOST), (500, ErrorClass.SERVER_ERROR)):
        assert error_class is of_list(Failure(error_class, "x", status=status)).error_class
