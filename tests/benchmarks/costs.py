"""What the statements cost the server, by the numbers of jobs, checkpoints and rows of history."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from benchmarks.table import print_row
from benchmarks.timed_daemon import server_seconds
from checkpointd.domain.attribution import OWN_FAILURES
from checkpointd.domain.cadence import FAILURE_CAP
from checkpointd.postgres import migrations, queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.rows import QuietRow, columns
from support import stored

SIZES = [(1_000, 10, 1), (10_000, 10, 1), (100_000, 10, 1), (10_000, 100, 1), (10_000, 10, 10)]
"""Jobs, checkpoints of each, and by how much its history is multiplied."""
MILLION = [*SIZES, (1_000_000, 3, 1)]

CLAIMED = 100
COLUMNS = [
    *("jobs", "checkpoints", "changes", "rows of `polling` read once", "claim", "the same, all due", "save"),
    *("metrics", "list of jobs", "page of a job"),
]
READ_ONCE = "select count(*) from checkpointd.polling where failures = 0 and next_poll_at <= now()"


async def _cost(sql: asyncpg.Connection, query: str, *arguments: object) -> float:
    """Return the median of the milliseconds of the server's processor for several runs, which are undone."""
    costs = []
    for _ in range(11):
        transaction = sql.transaction()
        await transaction.start()
        before = server_seconds(sql)
        await sql.fetch(query, *arguments)
        costs.append(1000 * (server_seconds(sql) - before))
        await transaction.rollback()
    return median(costs)


async def _due(sql: asyncpg.Connection, share: float) -> None:
    """Make this share of the jobs due."""
    await sql.execute(
        """update checkpointd.polling
        set sealed_at = null, gap_s = 300, failures = 0, last_attempt_at = now(), lease_expires_at = null,
          next_poll_at = now() - ($1 - random()) * interval '300 s'""",
        share,
    )
    await sql.execute("vacuum analyze checkpointd.polling")


def _quiet(leases: list[asyncpg.Record]) -> list[Any]:
    """Return the arguments of a save of quiet polls."""
    rows = [QuietRow(row["job"], row["lease_token"], 300.0, False, False, b"digest", None, 0, False) for row in leases]
    return list(columns(QuietRow, rows))


async def _measure(url: str, jobs: int, checkpoints: int, history: int) -> list[str]:
    connection = await connect(url)
    await migrations.migrate(connection)
    await connection.close()
    sql = await asyncpg.connect(url)
    await stored.fill(sql, jobs, checkpoints)
    for _ in range(history - 1):
        await sql.execute(
            """insert into checkpointd.changes (job, kind, checkpoint_id)
            select job, 'changed', id from checkpointd.checkpoints"""
        )
    await sql.execute("vacuum analyze")
    await sql.execute("set max_parallel_workers_per_gather = 0")  # the time of other processes would not be counted
    source, job = await sql.fetchrow("select source, id from fine_tuning.jobs where id like '%a' limit 1") or ("", "")
    key = await sql.fetchval("select key from checkpointd.sources")
    claim = [
        [key], [CLAIMED], [CLAIMED // 4], [None], 60.0, ["overdue"], OWN_FAILURES, FAILURE_CAP
    ]  # fmt: skip
    found = [await _cost(sql, READ_ONCE)]
    for share in (0.01, 1.0):
        await _due(sql, share)
        found.append(await _cost(sql, queries.CLAIM_DUE_JOBS, *claim))
    leases = await sql.fetch(queries.CLAIM_DUE_JOBS, *claim)
    before = server_seconds(sql)
    await sql.fetch(queries.SAVE_QUIET_POLLS, *_quiet(leases))
    found.append(1000 * (server_seconds(sql) - before))
    found.append(await _cost(sql, queries.COUNT_BY_SOURCE))
    found.append(await _cost(sql, queries.SEARCH_JOBS, [], 50, 1, 6))
    found.append(await _cost(sql, queries.LIST_JOB_CHECKPOINTS, source, job, 50, 0))
    changes = await sql.fetchval("select count(*) from checkpointd.changes")
    await sql.close()
    return [f"{jobs:,}", f"{jobs * checkpoints:,}", f"{changes:,}", *(f"{ms:.1f}" for ms in found)]


async def measure(folder: Path, sizes: Sequence[tuple[int, int, int]] = SIZES) -> None:
    """Print a table: milliseconds of the server's processor for each statement."""
    print_row(COLUMNS, is_head=True)
    async with EmbeddedPostgres(folder / "costs", sync=False) as server:
        admin = await asyncpg.connect(server.url)
        for number, size in enumerate(sizes):
            await admin.execute(f"create database size_{number}")
            print_row(await _measure(server.url.replace("/checkpointd?", f"/size_{number}?"), *size))
        await admin.close()
