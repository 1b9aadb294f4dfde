"""Job records are read value by value: an odd field is None and in the reject, and nothing affects its neighbours."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpointd.domain.job import JobRecord, has_ended, is_job_id, is_waiting, read_jobs
from checkpointd.domain.raw_item import LARGEST_ITEM, REJECT_BYTES
from checkpointd.domain.reading import Reject
from checkpointd.provider.page import read_page
from support.examples import tries
from support.odd import anything
from support.provider import JOB, job


def raw(**fields: Any) -> bytes:
    """Return the bytes of a job record."""
    return json.dumps(job(**fields)).encode()


def assert_storable(record: JobRecord) -> None:
    """Assert that every column accepts its value."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for document in (record.payload, record.hyperparameters, record.error, record.metadata):
        assert document is None or json.loads(document, parse_constant=refuse) is not Ellipsis
        assert document is None or document.encode().decode() == document
    for text in (record.status, record.model, record.fine_tuned_model):
        assert text is None or ("\0" not in text and text.encode().decode() == text)
    for integer in (record.created_at, record.finished_at, record.estimated_finish, record.trained_tokens):
        assert integer is None or (type(integer) is int and -(2**63) <= integer < 2**63)
    for document in (record.hyperparameters, record.error, record.metadata):
        assert "\\u0000" not in (document or "")


@pytest.mark.parametrize("written", [b"1712211800.0", b"1712211800.9", b"1712211800", b"1.7122118e9"])
def test_times(written: bytes) -> None:
    """A time may be written with a fraction, which is dropped."""
    sent = raw(finished_at=7).replace(b'"finished_at": 7', b'"finished_at": ' + written)
    (record,) = read_jobs([sent]).records
    assert (1_712_211_800, None, sent.decode()) == (record.finished_at, record.reject, record.payload)


def test_record_of_the_specification() -> None:
    """A record of the specification becomes its fields, and is kept as received."""
    sent = raw(status="succeeded", fine_tuned_model="ft:x", finished_at=5, trained_tokens=2**40, metadata={"a": "b"})
    (record,) = read_jobs([sent]).records
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
        *(("created_at", v) for v in (None, "5", True, 2**63, -(2**63) - 1)),
        *(("trained_tokens", v) for v in (1.5, "5", 1e300)),
        *((field, None) for field in ("hyperparameters", "error", "metadata")),
    ],
)
def test_odd_field_is_none(field: str, value: Any) -> None:
    """A field is None if it is null, of another type, or not storable; the latter two are in the reject."""
    (record,) = read_jobs([raw(**{field: value})]).records
    assert getattr(record, field) is None
    assert (value is None) == (record.reject is None)
    assert record.reject is None or record.reject.reason.startswith(f"{field}: ")
    assert "gpt-4o-mini-2024-07-18" == record.model


@pytest.mark.parametrize("error", [{}, {"code": None, "message": None}, "text", [], 0])
def test_error_of_any_shape(error: Any) -> None:
    """`error` is kept as received: providers send an object, an empty object, or an object of nulls."""
    (record,) = read_jobs([raw(error=error)]).records
    assert error == json.loads(record.error or "null")


@pytest.mark.parametrize(
    ("reason", "odd"),
    [
        *(("not a JSON object", value) for value in (b"7", b"null", b"[]")),
        *(("id: missing", value) for value in (b"{}", b'{"id": null}', b'{"id": ""}')),
        ("id: not a string", b'{"id": 7}'),
        ("id: not UTF-8", b'{"id": "\xff"}'),
        ("id: given twice with different values", b'{"id": "x", "id": "y"}'),
        *(
            ("id: not the id of a job", b'{"id": "%s"}' % value)
            for value in (b"..", b"a/b", b"a b", b"sk-x", b"x" * 257)
        ),
        ("id: has a NUL", rb'{"id": "a\u0000b"}'),
        ("id: has a NUL, or a lone surrogate", rb'{"id": "\ud800"}'),
        ("not JSON", b"{"),
        ("nested deeper than 64", b'{"id": "x", "a": ' + b"[" * 64 + b"]" * 64 + b"}"),
        ("nested deeper than 64", b'{"id": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_unreadable_record_is_a_reject(reason: str, odd: bytes) -> None:
    """A record without a valid id, or that cannot be read at all, is a reject; the others are read."""
    page = read_jobs([raw(job_id="a"), odd, raw(job_id="b")])
    assert ["a", "b"] == [record.id for record in page.records]
    (reject,) = page.rejects
    assert (odd[:REJECT_BYTES], "x" if reason.startswith("nested") else None, False) == (
        reject.raw,
        reject.id,
        reject.is_stored,
    )
    assert reject.reason.startswith(reason)


@pytest.mark.parametrize(
    ("reason", "field", "value"),
    [
        ("hyperparameters.n: not finite", "hyperparameters", b'{"n": NaN, "m": 1}'),
        ("hyperparameters.n: not finite", "hyperparameters", b'{"n": 1e999, "m": 1}'),
        ("hyperparameters.n: not finite", "hyperparameters", b'{"n": [-Infinity], "m": 1}'),
        ("hyperparameters.n: not UTF-8", "hyperparameters", b'{"n": "\xff", "m": 1}'),
        ("hyperparameters.n: has a NUL", "hyperparameters", rb'{"n": "a\u0000b", "m": 1}'),
        ("hyperparameters.n: has a NUL, or a lone", "hyperparameters", rb'{"n": "\udc00", "m": 1}'),
        ("hyperparameters: a name has a NUL", "hyperparameters", rb'{"\u0000": 1, "m": 1}'),
        ("hyperparameters.n: given twice", "hyperparameters", b'{"n": 1, "n": 2, "m": 1}'),
    ],
)
def test_odd_value_in_a_document(reason: str, field: str, value: bytes) -> None:
    """An odd value in a document is null, or left out if its name is odd. The rest of the document is kept."""
    sent = raw(**{field: "?"}).replace(b'"?"', value)
    (record,) = read_jobs([sent]).records
    assert 1 == json.loads(record.hyperparameters or "")["m"]
    assert {None} >= {
        v[0] if isinstance(v, list) else v for k, v in json.loads(record.hyperparameters or "").items() if k != "m"
    }
    assert_storable(record)
    assert record.reject
    assert (sent, True) == (record.reject.raw, record.reject.is_stored)
    assert record.reject.reason.startswith(reason)


def test_last_record_of_an_id_counts() -> None:
    """Of two records with the same id the last one is returned."""
    page = read_jobs([raw(status="running"), raw(status="failed")])
    assert ["failed"] == [record.status for record in page.records]


def test_record_with_a_secret() -> None:
    """A record that contains a secret is a reject without its bytes."""
    page = read_jobs([raw(), raw(job_id="b", model="canary")], lambda text: b"canary" in text)
    assert [JOB] == [record.id for record in page.records]
    assert [Reject(None, "it contains a secret", None)] == page.rejects


def test_records_of_a_page() -> None:
    """The items of read_page() are readable as records, on both of its ways of reading a page."""
    for odd in (b"", b", NaN"):
        page = read_page(b'{"data": [' + raw() + odd + b'], "has_more": false}')
        assert [JOB] == [record.id for record in read_jobs(page.items).records]


def test_ended() -> None:
    """A status has ended in upper and lower case; an unknown status has not ended."""
    assert all(map(has_ended, ("succeeded", "failed", "cancelled", "canceled", "SUCCEEDED")))
    assert not any(map(has_ended, (None, "", "running", "paused", "queued", "succeeded?")))


@pytest.mark.parametrize(
    ("provider", "waiting", "running", "ended"),
    [
        ("OpenAI", "validating_files queued paused", "running", "succeeded failed cancelled"),
        ("Azure", "created pending queued pausing paused", "running resuming", "succeeded failed cancelled"),
        (
            "Together",
            "pending queued",
            "running compressing uploading cancel_requested",
            "cancelled error completed",
        ),
        ("Foundry", "created queued", "running", "succeeded failed"),
    ],
)
def test_documented_statuses(provider: str, waiting: str, running: str, ended: str) -> None:
    """Each status that a provider documents is one of a job that waits, that runs, or that has ended."""
    expected = dict.fromkeys(waiting.split(), (True, False)) | dict.fromkeys(running.split(), (False, False))
    expected |= dict.fromkeys(ended.split(), (False, True))
    assert expected == {status: (is_waiting(status), has_ended(status)) for status in expected}, provider


@pytest.mark.parametrize(
    "valid", [JOB, "ft.v1:abc", "a", "7", "0f8fad5b-d9cb-469f-a165-70867728950e", "a_b~c@d=e+f", "x" * 256, "sky"]
)
def test_job_ids(valid: str) -> None:
    """An id is 1 to 256 characters that are safe in the path of a URL, and begins with a letter or a digit."""
    assert is_job_id(valid)


@pytest.mark.parametrize(
    "invalid",
    [
        *("", ".", "..", "-x", ".x", "_x", "a/b", "a%2fb", "a?b", "a#b", "a b", "a\n", "\na", "a\0", "ü", "x" * 257),
        *("sk-abc", "sk_abc", "ftckpt_abc", "a\\b", "'", "a;b", "a&b", "a,b"),
    ],
)
def test_what_is_no_job_id(invalid: str) -> None:
    """A text that could change a path, or that is a key or the id of a checkpoint, is not the id of a job."""
    assert not is_job_id(invalid)


@settings(max_examples=tries(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(job())), anything)
def test_any_value_in_any_field(field: str, value: bytes) -> None:
    """Any JSON in any field costs that field at most, or its record if it is the id, and never another record."""
    members = {json.dumps(k).encode(): json.dumps(v).encode() for k, v in job().items()}
    members[json.dumps(field).encode()] = value
    sent = b"{" + b",".join(map(b":".join, members.items())) + b"}"
    page = read_jobs([raw(job_id="a"), sent, raw(job_id="b")])
    others = [record for record in page.records if record.id in {"a", "b"}]
    assert others == read_jobs([raw(job_id="a"), raw(job_id="b")]).records
    assert 1 == len(page.rejects) + len(page.records) - len(others)
    for record in page.records:
        assert_storable(record)
        if record not in others and field != "id":
            expected = read_jobs([raw()]).records[0]
            touched = {field, "payload", "reject"}
            assert expected._replace(**dict.fromkeys(touched & set(expected._fields))) == record._replace(
                **dict.fromkeys(touched & set(record._fields))
            )


def test_large_document_is_odd() -> None:
    """A document of more than 65,536 characters is odd: it is left out, and the record is stored without it."""
    fits, large = {"x": "y" * 65_000}, {"x": "y" * 65_536}
    (record,) = read_jobs([raw(hyperparameters=large, metadata=fits, error=large)]).records
    assert (None, None, json.dumps(fits)) == (record.hyperparameters, record.error, record.metadata)
    assert record.reject
    assert "hyperparameters: more than 65536 characters; error: more than 65536 characters" == record.reject.reason


def test_large_record_is_a_reject() -> None:
    """A record of more than 512 KiB is a reject with its id."""
    page = read_jobs([raw(job_id="a", extra="x" * LARGEST_ITEM), raw(job_id="b")])
    assert ["b"] == [record.id for record in page.records]
    assert [("a", f"larger than {LARGEST_ITEM} bytes")] == [(reject.id, reject.reason) for reject in page.rejects]
