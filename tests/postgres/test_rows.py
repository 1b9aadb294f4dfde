"""Rows that are passed or read by position have the columns of their statements, in the same order."""

import re
from typing import Any

import asyncpg
import pytest

from checkpointd.domain.checkpoint import METRICS
from checkpointd.domain.diff import Change
from checkpointd.domain.job import Job, JobRecord
from checkpointd.domain.poll import Lease
from checkpointd.postgres import queries, rows
from checkpointd.postgres.store import Capacity, JobListLease

ROWS: dict[str, Any] = {name: row for name, row in vars(rows).items() if name.endswith("Row")}


def _statement(row: Any) -> str:
    """Return the statement that the docstring of a row names, without comments."""
    (name,) = re.findall(r"(\w+)\.sql", row.__doc__)
    return re.sub("--.*", "", (queries.folder() / "queries" / f"{name}.sql").read_text())


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


def _parameters(statement: str) -> list[str]:
    """Return the names that a statement gives to its arrays.

    They are the alias list of its unnest(…). Two statements have none: insert_changes.sql names the inserted columns
    after `at`; summarise_jobs.sql calls a function, whose parameters have the names in the plural.
    """
    if alias_lists := re.findall(r"unnest\([^)]*\)\s+as\s+\w+\s*\(([^)]*)\)", statement):
        (alias_list,) = alias_lists
        return _names(alias_list)
    if inserted := re.search(r"insert into checkpointd\.changes \(at, ([^)]*)\)", statement):
        return _names(inserted[1])
    assert "checkpointd.summarise($1, $2)" in statement
    definition = (queries.folder() / "views" / "_shared.sql").read_text()
    (signature,) = re.findall(r"function checkpointd\.summarise\((.*?)\) returns", definition)
    return [parameter.split()[0].removesuffix("s") for parameter in _names(signature)]


@pytest.mark.parametrize("name", ROWS)
def test_fields_are_the_parameters_of_the_statement(name: str) -> None:
    """The fields of a row are the names that its statement gives to its arrays."""
    assert _parameters(_statement(ROWS[name])) == list(ROWS[name]._fields)


@pytest.mark.parametrize("name", ROWS)
async def test_every_field_is_a_parameter(name: str, sql: asyncpg.Connection) -> None:
    """A statement takes one array for each field of its row; save_rejects.sql takes a number in addition."""
    parameters = (await sql.prepare(_statement(ROWS[name]))).get_parameters()
    arrays = [parameter for parameter in parameters if parameter.kind == "array"]
    assert len(ROWS[name]._fields) == len(arrays)
    assert len(parameters) - len(arrays) == (name == "RejectRow")


def test_capacities_are_parameters_of_a_claim() -> None:
    """A claim takes a source and the fields of its capacity."""
    (parameters,) = re.findall(r"as capacity \(([^)]*)\)", queries.CLAIM_DUE_JOBS)
    assert ["source", *Capacity._fields] == _names(parameters)


def test_rows_continue_with_the_fields_of_the_domain() -> None:
    """Rows that are built from the fields of a domain type have these fields, in the same order."""
    assert ("job", *JobRecord._fields[1:-1]) == rows.JobRow._fields
    assert ("job", "poll", *Change._fields) == rows.ChangeRow._fields
    values = ("step_number", "created_at", "fine_tuned_model_checkpoint", *METRICS, "extra_metrics", "payload")
    assert ("job", "id", *values) == rows.UpdatedRow._fields


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (queries.CLAIM_DUE_JOBS, Lease.__struct_fields__),
        (queries.CLAIM_NAMED_JOBS, Lease.__struct_fields__),
        (queries.CLAIM_JOB_LISTS, JobListLease._fields),
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
    """Rows become one list for each field."""
    assert [[1, 2], [True, False]] == rows.columns([rows.SummaryRow(1, burst=True), rows.SummaryRow(2, burst=False)])
