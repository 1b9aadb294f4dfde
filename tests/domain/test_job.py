"""Job records are read leniently: a field that cannot be read is None, and other records are not affected."""

import json
from typing import Any

import pytest

from checkpointd.domain.job import has_ended, read_jobs
from checkpointd.provider.page import read_page
from support.provider import JOB, job


def raw(**fields: Any) -> bytes:
    """Return the bytes of a job record."""
    return json.dumps(job(**fields)).encode()


def test_record_of_the_specification() -> None:
    """A record of the specification becomes its fields, and is kept as received."""
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
    """A field is None if it is null, of another type, or not storable; the other fields are kept."""
    (record,) = read_jobs([raw(**{field: value})])
    assert getattr(record, field) is None
    assert "gpt-4o-mini-2024-07-18" == record.model


@pytest.mark.parametrize("error", [{}, {"code": None, "message": None}, "text", [], 0])
def test_error_of_any_shape(error: Any) -> None:
    """`error` is kept as received: providers send an object, an empty object, or an object of nulls."""
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
def test_unreadable_record_is_left_out(odd: bytes) -> None:
    """A record without a valid id, or that is not valid JSON, is left out; the other records are read."""
    assert ["a", "b"] == [record.id for record in read_jobs([raw(job_id="a"), odd, raw(job_id="b")])]


def test_last_record_of_an_id_counts() -> None:
    """Of two records with the same id the last one is returned."""
    assert ["failed"] == [record.status for record in read_jobs([raw(status="running"), raw(status="failed")])]


def test_records_of_a_page() -> None:
    """The items of read_page() are readable as records, on both of its ways of reading a page."""
    for odd in (b"", b", NaN"):
        page = read_page(b'{"data": [' + raw() + odd + b'], "has_more": false}')
        assert [JOB] == [record.id for record in read_jobs(page.items)]


def test_ended() -> None:
    """A status has ended in upper and lower case; an unknown status has not ended."""
    assert all(map(has_ended, ("succeeded", "failed", "cancelled", "canceled", "SUCCEEDED")))
    assert not any(map(has_ended, (None, "", "running", "paused", "queued", "succeeded?")))


@pytest.mark.parametrize("odd", ["", "a\0b", "\ud800", "a b", "x" * 257])
def test_record_with_invalid_id_is_left_out(odd: str) -> None:
    """A record whose id is not valid is left out: as a parameter it would fail the query for all records."""
    assert [JOB] == [record.id for record in read_jobs([raw(job_id=odd), raw()])]


def test_document_with_a_number_that_is_too_large() -> None:
    """A document is None if it has a number that is too large for JSON; the record is kept."""
    (record,) = read_jobs([raw(hyperparameters={"n": 7}).replace(b'"n": 7', b'"n": 1e400')])
    assert record.hyperparameters is None
    assert "1e400" in record.payload
