"""The formats of providers other than OpenAI: answers in the documented form are read value by value."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.event_list import Events
from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.job import read_jobs
from checkpointd.domain.listing import Listing, read_listing
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.page import NotAListError, Page, Requested, read_page
from support.examples import tries
from support.odd import anything
from support.paths import DATA

JOB = "job-1"

OTHER_FORMATS = ("coreweave", "together", "tinker", "foundry")


def documented(kind: str, name: str = "") -> bytes:
    """Return the documented answer of a kind of source."""
    return (DATA / "documented" / f"{name or kind}.json").read_bytes()


def pages(kind: str, body: bytes, page_size: int = 100) -> Page:
    """Return a body as a page of a checkpoint list."""
    return read_page(body, requested=Requested(PRESETS[kind].format.checkpoints, page_size))


def listing(kind: str, body: bytes | None = None) -> Listing:
    """Return the checkpoints of a body, by default of the documented answer."""
    page = pages(kind, documented(kind) if body is None else body)
    assert None is page.failure
    return read_listing(JOB, [page.items], reader=PRESETS[kind].format.reader)


def values(kind: str) -> list[tuple[Any, ...]]:
    """Return the values of the checkpoints of the documented answer."""
    found = listing(kind)
    assert [] == found.rejects
    return [
        (item.id, item.step_number, item.created_at, item.fine_tuned_model_checkpoint, item.metrics)
        for item in found.checkpoints
    ]


def test_coreweave() -> None:
    """CoreWeave states an id, a step and metrics. The time and the model are null."""
    sent = json.loads(documented("coreweave"))["data"]
    assert values("coreweave") == [(item["id"], item["step"], None, None, item["metrics"]) for item in sent]


def test_together() -> None:
    """Together states a path, a step and a time. Two checkpoints can have the same step. The model is null."""
    base = "s3://together-example/ft-01234567"
    assert values("together") == [
        (f"{base}/model/step-140", 140, 1779043583, None, {}),
        (f"{base}/adapter/step-140", 140, 1779043585, None, {}),
        (f"{base}/adapter/step-70", 70, 1779041400, None, {}),
    ]
    assert [item.details for item in listing("together").checkpoints] == [
        {"checkpoint_type": "Final Merged", "deploy_as": "acme/support-140"},
        {"checkpoint_type": "Final Adapter", "deploy_as": None},
        {"checkpoint_type": "Intermediate", "deploy_as": None},
    ]


def test_jobs_of_together() -> None:
    """A job has its status, models and time. What OpenAI has in `hyperparameters` is put together."""
    wire_format = PRESETS["together"].format
    assert wire_format.jobs
    page = read_page(documented("together", "together_jobs"), requested=Requested(wire_format.jobs, 100))
    ((record,), rejects) = read_jobs(page.items, read_record=wire_format.read_record)
    assert ([], None) == (rejects, record.reject)
    assert ("ft-01234567", "completed", 1779039345, None, 850_000) == (
        record.id, record.status, record.created_at, record.finished_at, record.trained_tokens
    )  # fmt: skip
    assert "acme/Llama-3.2-3B-Instruct-support-0123" == record.fine_tuned_model
    assert {"n_epochs": 2, "n_checkpoints": 2, "batch_size": 8, "learning_rate": 1e-05} == {
        name: value for name, value in json.loads(record.hyperparameters or "").items() if name != "training_type"
    }


def test_metrics_of_together() -> None:
    """The objects of a step are one step, with the values of all. Their numbers keep their names, but for the loss."""
    wire_format = PRESETS["together"].format
    assert wire_format.events
    requested = Requested(wire_format.events, 100)
    page = read_page(documented("together", "together_metrics"), requested=requested)
    events = wire_format.read_events(page.items, lambda _: False)
    assert ([], []) == (events.rejects, events.messages)
    assert [(1, 1779196193, 2.43, None), (2, 1779196204, 2.31, None)] == [
        (step.step_number, step.created_at, step.train_loss, step.valid_loss) for step in events.steps
    ]
    assert [
        {"train/epoch": 0.1, "train/grad_norm": 1.21},
        {"eval/loss": 2.35, "train/epoch": 0.2, "train/grad_norm": 1.17},
    ] == [json.loads(step.extra_metrics or "") for step in events.steps]
    assert [1, 2] == [len(found) if isinstance(found, list) else 1 for found in payloads(events)]
    odd = [
        b'{"train/loss": 1}', b'{"eval/global_step": 3}', b'{"train/global_step": 3, "train/loss": NaN}',
        b'{"key": "k"}',
    ]  # fmt: skip
    events = wire_format.read_events(odd, lambda text: b'"k"' in text)
    assert [
        ("train/global_step: missing", False), ("it contains a secret", False), ("train/loss: not finite", True)
    ] == [(reject.reason, reject.is_stored) for reject in events.rejects]  # fmt: skip
    assert [odd[0], None, odd[2]] == [reject.raw for reject in events.rejects]


def payloads(events: Events) -> list[Any]:
    """Return the payloads of the steps."""
    return [json.loads(step.payload or "") for step in events.steps]


@pytest.mark.parametrize(
    ("body", "items", "error_class"),
    [
        ('{"data": null}', 0, None),
        ('{"data": [], "has_more": true}', 0, ErrorClass.BAD_HAS_MORE),
        ('{"data": [NaN, {}]}', 2, None),
        ("{}", 0, ErrorClass.NOT_A_LIST),
        ('{"data": 5}', 0, ErrorClass.NOT_A_LIST),
        ('{"data": [], "data": [1]}', 0, ErrorClass.NOT_A_LIST),
        ('{"error": {"message": "no"}, "data": []}', 0, ErrorClass.ERROR_IN_200),
        ("[]", 0, ErrorClass.NOT_A_LIST),
        ("", 0, ErrorClass.EMPTY_BODY),
        ("<html><title>x</title></html>", 0, ErrorClass.HTML),
    ],
)
def test_lists_of_one_page(body: str, items: int, error_class: ErrorClass | None) -> None:
    """A list without pages is complete, and null means that it is empty. Anything else is a failure."""
    try:
        page = pages("together", body.encode())
        found = len(page.items), page.failure.error_class if page.failure else None
    except NotAListError as e:
        found = 0, e.error_class
    assert (items, error_class) == found


def test_tinker() -> None:
    """Tinker states a name, a time, a type, a path, a size and an expiry. The step, the model and metrics are null."""
    assert values("tinker") == [
        ("weights/step-000100", None, 1788256800, None, {}),
        ("sampler_weights/best", None, 1788258600, None, {}),
    ]
    path = "tinker://0f6b3a1f-6a1c-4c44-8a0e-64c2f1d7e921:train:0"
    assert [item.details for item in listing("tinker").checkpoints] == [
        {
            "checkpoint_type": "training", "deploy_as": f"{path}/weights/step-000100", "expires_at": 1788861600,
            "size_bytes": 214748364,
        },
        {
            "checkpoint_type": "sampler", "deploy_as": f"{path}/sampler_weights/best", "expires_at": None,
            "size_bytes": None,
        },
    ]  # fmt: skip


def test_runs_of_tinker() -> None:
    """A training run has its model and what people said about it. It has no status and no times."""
    wire_format = PRESETS["tinker"].format
    assert wire_format.jobs
    page = read_page(documented("tinker", "tinker_runs"), requested=Requested(wire_format.jobs, 20))
    assert (False, None, None) == (page.has_more, page.last_id, page.failure)
    ((record,), rejects) = read_jobs(page.items, read_record=wire_format.read_record)
    assert ([], None, None, None) == (rejects, record.reject, record.status, record.created_at)
    assert ("0f6b3a1f-6a1c-4c44-8a0e-64c2f1d7e921:train:0", "Qwen/Qwen3-8B") == (record.id, record.model)
    assert {"purpose": "support"} == json.loads(record.metadata or "")


def test_foundry() -> None:
    """Foundry states a name, a type and a time. A step and metrics are read if they are stated."""
    assert values("foundry") == [
        ("step-100", None, 1788256800, None, {}),
        ("sampler-best", None, 1788258600, None, {}),
    ]
    assert [{"checkpoint_type": "training"}, {"checkpoint_type": "sampler"}] == [
        item.details for item in listing("foundry").checkpoints
    ]
    sent = json.loads(documented("foundry"))
    sent["checkpoints"][0] |= {"step_number": 100, "metrics": {"train_loss": 0.5, "reward": 2}}
    found = listing("foundry", json.dumps(sent).encode()).checkpoints[0]
    assert (100, {"train_loss": 0.5, "reward": 2}) == (found.step_number, found.metrics)


def test_sessions_of_foundry() -> None:
    """A session has its status and its model, and no times."""
    wire_format = PRESETS["foundry"].format
    assert wire_format.jobs
    page = read_page(documented("foundry", "foundry_sessions"), requested=Requested(wire_format.jobs, 20))
    assert (False, None, None) == (page.has_more, page.last_id, page.failure)
    ((record,), rejects) = read_jobs(page.items, read_record=wire_format.read_record)
    assert ([], None, "running", None) == (rejects, record.reject, record.status, record.created_at)
    assert ("session_0f6b3a1f", "Qwen/Qwen3-32B") == (record.id, record.model)


@pytest.mark.parametrize(
    ("name", "cursor", "before", "expected"),
    [
        ("jobs", {"offset": 0, "total_count": 2}, None, (True, "1", None)),
        ("jobs", {"offset": 1, "total_count": 2}, "1", (False, None, None)),
        ("jobs", {"offset": 0, "total_count": 2}, "1", "`cursor.offset` is 0, but 1 was requested"),
        ("jobs", None, None, "`cursor` has no integers `offset` and `total_count`"),
        ("jobs", {"offset": 0, "total_count": True}, None, "`cursor` has no integers `offset` and `total_count`"),
        ("checkpoints", None, None, (False, None, None)),
        ("checkpoints", {"offset": 0, "total_count": 2}, None, (True, "1", None)),
        ("checkpoints", None, "1", "`cursor` has no integers `offset` and `total_count`"),
    ],
)
def test_pages_by_offset(name: str, cursor: Any, before: str | None, expected: Any) -> None:
    """A page is followed until all items are read. Whatever leaves that open is a failure."""
    list_format = PRESETS["tinker"].format.jobs if name == "jobs" else PRESETS["tinker"].format.checkpoints
    assert list_format
    body = json.dumps({list_format.items: [{}], "cursor": cursor}).encode()
    page = read_page(body, requested=Requested(list_format, 1, before))
    if isinstance(expected, str):
        assert page.failure
        assert expected == page.failure.message
    else:
        assert expected == (page.has_more, page.last_id, page.failure)


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_payloads(kind: str) -> None:
    """The item is stored as received, and read again as it was."""
    found = listing(kind)
    raw = [bytes(item).decode() for item in pages(kind, documented(kind)).items]
    assert raw == [item.payload for item in found.checkpoints]
    assert found.checkpoints == [found.reader.read_stored(item, JOB) for item in raw]


@pytest.mark.parametrize(
    ("kind", "item", "reason", "rejected_id"),
    [
        ("coreweave", {"id": "a", "metrics": {}}, "step: missing", "a"),
        ("coreweave", {"id": "a", "step": "1", "metrics": {}}, "step: not an integer", "a"),
        ("coreweave", {"id": "a b", "step": 1}, "id: not 1 to 256 visible ASCII characters", None),
        ("coreweave", {"step": 1}, "id: missing", None),
        ("coreweave", {"id": "a", "step": 1, "metrics": {"x" * 300_000: 1}}, "larger than 262144 bytes", None),
        ("coreweave", 5, "not a JSON object", None),
        ("together", {"step": 1, "checkpoint_type": "Final"}, "path: missing", None),
        ("together", {"path": "s3://a", "checkpoint_type": "Final"}, "step: missing", "s3://a"),
        ("tinker", {"time": "2026-09-01T10:00:00Z"}, "checkpoint_id: missing", None),
        ("foundry", {"time": "2026-09-01T10:00:00Z"}, "checkpoint_id: missing", None),
        ("tinker", {"checkpoint_id": "weights/ü"}, "checkpoint_id: not 1 to 256 visible ASCII characters", None),
    ],
)
def test_items_that_cannot_be_read(kind: str, item: Any, reason: str, rejected_id: str | None) -> None:
    """An item without an important value is a reject with its reason and, if it can be read, its id."""
    name = PRESETS[kind].format.checkpoints.items
    found = listing(kind, json.dumps({name: [item], "has_more": False}).encode())
    assert ([], [(reason, rejected_id)]) == (found.checkpoints, [(one.reason, one.id) for one in found.rejects])


@pytest.mark.parametrize("created_at", ["2026-05-17T17:35:45", "yesterday", 1779039345])
def test_times_that_cannot_be_read(created_at: object) -> None:
    """A time in another form, or without a zone, is null, and the reason is kept. The checkpoint is stored."""
    item = {"path": "s3://a", "step": 1, "created_at": created_at, "checkpoint_type": "Final"}
    found = listing("together", json.dumps({"data": [item]}).encode())
    assert [(1, None)] == [(one.step_number, one.created_at) for one in found.checkpoints]
    assert [True] == [one.is_stored and one.reason.startswith("created_at: ") for one in found.rejects]


NAMES: dict[str, tuple[str, ...]] = {
    "coreweave": ("id", "step", "metrics"),
    "together": ("path", "step", "created_at", "checkpoint_type", "object_name"),
    "tinker": ("checkpoint_id", "checkpoint_type", "time", "tinker_path", "size_bytes", "expires_at"),
    "foundry": ("checkpoint_id", "checkpoint_type", "time", "step_number", "metrics"),
    "job": (
        "id",
        "training_run_id",
        "session_id",
        "status",
        "model",
        "base_model",
        "created_at",
        "token_count",
        "user_metadata",
    ),
    "metrics": ("train/global_step", "eval/global_step", "timestamp", "train/loss", "eval/loss", "\\u0000"),
}
times = st.sampled_from(['"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"2026-01-01T00:00:00Z"'])
values_of_members = anything | times.map(str.encode) | st.just(b"1") | st.just(b'"weights/a"')


def objects(names: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Return a strategy for objects with some of these members, with any values."""
    members = st.dictionaries(st.sampled_from(names), values_of_members, max_size=len(names))
    return members.map(
        lambda sent: b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in sent.items()) + b"}"
    )


@pytest.mark.parametrize("kind", OTHER_FORMATS)
@settings(max_examples=tries(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_item_is_stored_or_rejected(kind: str, data: st.DataObject) -> None:
    """Whatever an item has, it is a checkpoint that can be stored and read again, or a reject, or both."""
    reader = PRESETS[kind].format.reader
    raw = data.draw(objects(NAMES[kind]) | anything)
    found = read_listing(JOB, [[raw]], reader=reader)
    assert found.checkpoints or found.rejects
    for item in found.checkpoints:
        json.loads(item.payload)
        assert item == reader.read_stored(item.payload, JOB)
        texts = [item.id, *(value for value in (item.details or {}).values() if isinstance(value, str))]
        assert not any("\0" in one or one != one.encode("utf-8", "ignore").decode() for one in texts)
    record_reader = PRESETS[kind].format.read_record
    page = read_jobs([data.draw(objects(NAMES["job"]) | anything)], read_record=record_reader)
    assert page.records or page.rejects


@settings(max_examples=tries(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(items=st.lists(objects(NAMES["metrics"]) | anything, max_size=4))
def test_any_metrics_are_stored_or_rejected(items: list[bytes]) -> None:
    """Whatever Together's metrics list has, each object is a part of a step, or a reject with a reason."""
    events = PRESETS["together"].format.read_events(items, lambda _: False)
    assert bool(items) == bool(events.steps or events.rejects)
    assert len({step.step_number for step in events.steps}) == len(events.steps)
    for step in events.steps:
        assert None is step.payload or json.loads(step.payload)
        assert all(isinstance(value, float | int) for value in json.loads(step.extra_metrics or "{}").values())


@pytest.mark.parametrize("created_at", [1779043585, "2026-05-17T17:35:45Z"])
@pytest.mark.parametrize("kind", PRESETS)
def test_filters(kind: str, created_at: int | str) -> None:
    """A format has the filters for the values that it reads from a job record with every member, and no others."""
    wire_format = PRESETS[kind].format
    item = {
        **dict.fromkeys(("id", "session_id", "training_run_id"), "job-1"),
        **dict.fromkeys(("model", "base_model", "status", "metadata", "user_metadata"), "text"),
        "created_at": created_at,
    }
    record = wire_format.read_record(json.dumps(item).encode())
    read = {"model": record.model, "status": record.status, "metadata": record.metadata}
    if record.reject is None:  # else the format has the other form of times
        read["created_after"] = record.created_at
    if wire_format.jobs is None:
        assert not wire_format.filters
    else:
        stated = {name for name, value in read.items() if value is not None}
        assert stated == wire_format.filters & read.keys()
