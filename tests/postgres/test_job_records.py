"""A job record is read leniently: what cannot be read of it is none, and it costs no other record."""

import json
from typing import Any

import pytest

from checkpointd.domain.job import has_ended, read_jobs
from checkpointd.provider.page import read_page
from support.provider import JOB, job


def raw(**fields: Any) -> bytes:
    """Return the bytes of a job record."""
    return json.dumps(job(**fields)).encode()


def test_record_of_the_reference() -> None:
    """A record as the specification has it becomes its fields and its own bytes."""
    sent = raw(status="succeeded", fine_tuned_model="ft:x", finished_at=5, trained_tokens=2**40, metadata={"a": "b"})
    (record,) = read_jobs([sent])
    assert (JOB, "succeeded", "ft:x", 5, 2**40) == (
        record.id,
        record.status,
        record.fine_tuned_model,
        record.finished_at,
        record.trained_tokens,
    )
    assert {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8} == json.loads(record.hyperparameters or "")
    assert {"a": "b"} == json.loads(record.metadata or "")
    assert (None, None) == (record.error, record.estimated_finish)
    assert sent.decode() == record.payload


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("status", v) for v in (None, 7, True, ["running"], "a\0b", "\ud800")),
        *(("created_at", v) for v in (None, "5", 1.5, True, 2**63, -(2**63) - 1)),
        *((field, None) for field in ("hyperparameters", "error", "metadata")),
    ],
)
def test_odd_field_is_none(field: str, value: Any) -> None:
    """A field that is null, of another type, or that no column can hold is none; the others are kept."""
    (record,) = read_jobs([raw(**{field: value})])
    assert getattr(record, field) is None
    assert "gpt-4o-mini-2024-07-18" == record.model


@pytest.mark.parametrize("error", [{}, {"code": None, "message": None}, "text", [], 0])
def test_error_of_any_shape(error: Any) -> None:
    """`error` is kept as it comes: providers send an object, an empty one, or an object of nulls."""
    (record,) = read_jobs([raw(error=error)])
    assert error == json.loads(record.error or "null")


@pytest.mark.parametrize(
    "odd",
    [
        *(b"7", b"null", b"[]", b"{}", b'{"id": null}', b'{"id": 7}', b'{"id": "\xff"}', b'{"id": "x", "a": NaN}'),
        *(b"[" * 9999, b'{"id": "x", "a": ' + b"1" * 5000 + b"}"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_odd_record_costs_no_other(odd: bytes) -> None:
    """What has no usable id, or would not fit in a column, is left out; the other records are read."""
    assert ["a", "b"] == [record.id for record in read_jobs([raw(job_id="a"), odd, raw(job_id="b")])]


def test_last_of_one_id_counts() -> None:
    """Of two records of one job the last is taken."""
    assert ["failed"] == [record.status for record in read_jobs([raw(status="running"), raw(status="failed")])]


def test_records_of_a_page() -> None:
    """The items of a page that read_page gives are records, whichever way it read them."""
    for odd in (b"", b", NaN"):
        page = read_page(b'{"data": [' + raw() + odd + b'], "has_more": false}')
        assert [JOB] == [record.id for record in read_jobs(page.items)]


def test_ended() -> None:
    """Ended are the statuses after which no training goes on, in any spelling; an unknown one has not ended."""
    assert all(map(has_ended, ("succeeded", "failed", "cancelled", "canceled", "SUCCEEDED")))
    assert not any(map(has_ended, (None, "", "running", "paused", "queued", "succeeded?")))


@pytest.mark.parametrize("odd", ["", "a\0b", "\ud800", "a b", "x" * 257])
def test_id_that_no_query_takes_costs_no_other(odd: str) -> None:
    """A record whose id no tracked job can have is left out: as a parameter it could fail the query for all."""
    assert [JOB] == [record.id for record in read_jobs([raw(job_id=odd), raw()])]


def test_documents_are_json() -> None:
    """What is kept of a record as a document is JSON that a column takes, though a number in it be beyond measure."""
    sent = raw(hyperparameters={"n": 7}).replace(b'"n": 7', b'"n": 1e400')
    for record in read_jobs([sent]):
        assert "Infinity" not in (record.hyperparameters or "")
