"""The formats of providers other than OpenAI: answers in the documented form are read value by value."""

import json
from typing import Any

import pytest

from checkpointd.domain.listing import Listing, read_listing
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.page import Page, Requested, read_page
from support.paths import DATA

JOB = "job-1"


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


@pytest.mark.parametrize("kind", ["coreweave"])
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
    ],
)
def test_items_that_cannot_be_read(kind: str, item: Any, reason: str, rejected_id: str | None) -> None:
    """An item without an important value is a reject with its reason and, if it can be read, its id."""
    found = listing(kind, json.dumps({"data": [item], "has_more": False}).encode())
    assert ([], [(reason, rejected_id)]) == (found.checkpoints, [(one.reason, one.id) for one in found.rejects])
