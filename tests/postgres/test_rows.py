"""Rows that are passed or read by position have the columns of their statements, in the same order."""

import re
from typing import Any, NamedTuple, get_type_hints

import asyncpg
import pytest

from checkpointd.domain.checkpoint import METRICS
from checkpointd.domain.diff import Change
from checkpointd.domain.event import Message, Step
from checkpointd.domain.job import Job, JobRecord
from checkpointd.domain.job_list import PassState
from checkpointd.domain.poll import Lease
from checkpointd.postgres import queries, rows
from checkpointd.postgres.job_lists import JobListLease
from checkpointd.postgres.store import Capacity

ROWS: dict[str, Any] = {name: row for name, row in vars(rows).items() if name.endswith("Row")}


def _statements(row: Any) -> list[str]:
    """Return the statements that the docstring of a row names, without comments."""
    names = re.findall(r"(\w+)\.sql", row.__doc__)
    return [re.sub("--.*", "", (queries.folder() / "queries" / f"{name}.sql").read_text()) for name in names]


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


def _parameters(kind: str, statement: str) -> list[str]:
    """Return the names of the parameters of a call that take the arrays of a kind of rows, without the kind.

    They begin with the kind, as in `poll_job`.
    """
    return re.findall(rf"\b{kind.lower()}_(\w+) => (?:string_to_array\()?\$", statement)


@pytest.mark.parametrize("name", ROWS)
def test_fields_are_the_parameters_of_the_statement(name: str) -> None:
    """The fields of a row are the names that its statements give to its arrays."""
    for statement in _statements(ROWS[name]):
        assert _parameters(name.removesuffix("Row"), statement) == list(ROWS[name]._fields)


def test_every_array_is_a_field() -> None:
    """A statement takes one array for each field of its rows, in the order in which the rows are passed.

    Arrays of numbers and truth values are passed as texts, those of lines as one text.
    """
    for name in _names_of_statements():
        statement = (queries.folder() / "queries" / f"{name}.sql").read_text()
        kinds = [row for row in ROWS.values() if f"{name}.sql" in row.__doc__]
        arrays = re.findall(r"\$\d+::(text::)?(\w+)\[\]", statement)
        lines = statement.count("=> string_to_array($")
        assert sum(len(kind._fields) for kind in kinds) == len(arrays) + lines, name
        assert sum(list(get_type_hints(kind).values()).count(rows.Line) for kind in kinds) == lines, name
        assert all(bool(as_text) == (of not in {"text", "bytea"}) for as_text, of in arrays), name
        scalars = {"save_polls": 2, "save_job_records": 3, "save_events": 10}
        assert scalars.get(name, 0) == len(re.findall(r"=> \$", statement)) - len(arrays), name


def _names_of_statements() -> set[str]:
    """Return the names of the statements that take rows."""
    return {name for row in ROWS.values() for name in re.findall(r"(\w+)\.sql", row.__doc__)}


async def test_parameters_of_procedures(sql: asyncpg.Connection) -> None:
    """A call passes its parameters in the order of the procedure, so that both can be read side by side."""
    for name in _names_of_statements():
        called = re.findall(r"(\w+) =>", (queries.folder() / "queries" / f"{name}.sql").read_text())
        declared = await sql.fetchval("select proargnames from pg_proc where proname = $1", name)
        assert declared == called


def test_capacities_are_parameters_of_a_claim() -> None:
    """A claim takes a source and the fields of its capacity."""
    (parameters,) = re.findall(r"as capacity \(([^)]*)\)", queries.CLAIM_DUE_JOBS)
    assert {"source", *Capacity._fields} - {"is_test"} == set(_names(parameters))


def test_rows_continue_with_the_fields_of_the_domain() -> None:
    """Rows that are built from the fields of a domain type have these fields, in the same order."""
    assert ("job", *JobRecord._fields[1:-1]) == rows.RecordRow._fields
    assert ("job", *Change._fields) == rows.ChangeRow._fields
    assert (*Step.__struct_fields__, "is_newest", "is_newer") == rows.StepRow._fields
    assert Message.__struct_fields__ == rows.MessageRow._fields
    values = ("step_number", "created_at", "fine_tuned_model_checkpoint", *METRICS, "extra_metrics", "payload")
    assert ("job", "is_new", "id", *values, "details") == rows.CheckpointRow._fields


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (queries.CLAIM_DUE_JOBS, Lease.__struct_fields__),
        (queries.CLAIM_NAMED_JOBS, Lease.__struct_fields__),
        (queries.CLAIM_JOB_LISTS, (*JobListLease._fields[:-1], *PassState._fields)),
        (queries.FIND_JOBS, tuple(Job.__slots__)),
        (queries.FIND_TRACKED_JOBS, tuple(Job.__slots__)),
    ],
)
async def test_fields_are_the_columns_of_the_result(
    query: str, fields: tuple[str, ...], sql: asyncpg.Connection
) -> None:
    """The fields of a type that is built from a row of a result are the columns of that result."""
    assert fields == tuple(column.name for column in (await sql.prepare(query)).get_attributes())


def test_columns() -> None:
    """Rows become one parameter for each field, also if there is none. A column of nulls becomes null."""
    marks = [rows.MarkRow(1, "a", missing=True), rows.MarkRow(2, "b", missing=False)]
    assert ["{1,2}", ("a", "b"), "{true,false}"] == rows.columns(rows.MarkRow, marks)
    assert ["{}", (), "{}"] == rows.columns(rows.MarkRow, [])
    changes = [
        rows.ChangeRow(1, "missing", "a", None, None, None),
        rows.ChangeRow(2, "returned", None, None, None, None),
    ]
    assert ["{1,2}", ("missing", "returned"), ("a", None), None, None, None] == rows.columns(rows.ChangeRow, changes)
    lines: Any = NamedTuple("lines", [("ids", rows.Line)])  # type: ignore[misc]
    assert [["a\nb"], [""]] == [rows.columns(lines, listed) for listed in ([("a",), ("b",)], [])]


NUMBERS: dict[str, list[Any]] = {
    "bigint": [2**63 - 1, -(2**63), 0, None],
    "float8": [0.1, -0.0, 5e-324, -1.7976931348623157e308, 1e16, 123456789.123456789, None, 1.0],
    "bool": [True, None, False],
}


@pytest.mark.parametrize("of", NUMBERS)
async def test_numbers_are_passed_unchanged(of: str, sql: asyncpg.Connection) -> None:
    """The text of a column of numbers or truth values is an array of the same values."""
    kind: Any = NamedTuple("kind", [("values", bool if of == "bool" else float | None)])  # type: ignore[misc]
    (text,) = rows.parameters(kind, [NUMBERS[of]])
    assert repr(NUMBERS[of]) == repr(await sql.fetchval(f"select $1::text::{of}[]", text))
