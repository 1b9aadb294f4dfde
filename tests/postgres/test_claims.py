"""How a claim finds due jobs: in their order, past locked ones, and with one reading of the table."""

import asyncpg
import pytest

from checkpointd.domain.attribution import OWN_FAILURES
from checkpointd.postgres import queries
from checkpointd.postgres.store import Store
from support.harness import track

JOBS = 600


@pytest.fixture
async def key(store: Store, sql: asyncpg.Connection) -> int:
    """Return the key of a source with jobs, all due: the lower its number, the longer a job has been overdue."""
    await track(store, *(f"ftjob-{n:03d}" for n in range(JOBS)))
    await sql.execute("""
        update checkpointd.polling p set gap_s = 300, last_attempt_at = now() - interval '1 day',
          next_poll_at = now() - (1000 - substr(j.id, 7)::int) * interval '1 s'
        from checkpointd.jobs j where j.key = p.job""")
    await sql.execute("vacuum analyze checkpointd.polling")
    return int(await sql.fetchval("select key from checkpointd.sources"))


async def _claim(sql: asyncpg.Connection, key: int, slots: int, order: str = "overdue", failing: int = 2) -> list[int]:
    """Return the numbers of the jobs that a claim takes, in ascending order."""
    rows = await sql.fetch(
        queries.CLAIM_DUE_JOBS, [key], [slots], [failing], [None], 60.0, [order], OWN_FAILURES, 300.0
    )
    return sorted(int(row["id"].removeprefix("ftjob-")) for row in rows)


async def test_the_most_overdue_come_first(sql: asyncpg.Connection, key: int) -> None:
    """Claims take the jobs that are most overdue in proportion to their gaps."""
    assert [*range(5)] == await _claim(sql, key, 5)
    await sql.execute("update checkpointd.polling set gap_s = 3 where job = (select max(job) from checkpointd.polling)")
    assert [5, 6, 7, 8, 599] == await _claim(sql, key, 5)


@pytest.mark.parametrize("order", ["overdue", "random", "recent"])
async def test_locked_jobs_delay_no_others(sql: asyncpg.Connection, url: str, key: int, order: str) -> None:
    """However many of the most overdue jobs another transaction has locked, the next ones are claimed."""
    other = await asyncpg.connect(url)
    async with other.transaction():
        locked = await other.fetch("select job from checkpointd.polling order by next_poll_at limit 590 for update")
        assert 590 == len(locked)
        assert [*range(590, 600)] == await _claim(sql, key, 16, order)
    assert 16 == len(await _claim(sql, key, 16, order))
    await other.close()


@pytest.mark.parametrize("order", ["overdue", "random", "recent"])
async def test_failing_jobs_take_their_share_only(sql: asyncpg.Connection, key: int, order: str) -> None:
    """If more jobs fail lastingly than a claim looks at first, they get their share, and others the rest."""
    await sql.execute("""
        update checkpointd.polling p set failures = 3
        from checkpointd.jobs j where j.key = p.job and j.id < 'ftjob-590'""")
    claimed = await _claim(sql, key, 8, order)
    expected = {"overdue": [0, 1, *range(590, 596)], "recent": [*range(590, 598)]}
    assert 8 == len(claimed)
    assert claimed == expected.get(order, [n for n in claimed if n >= 590])


async def test_a_claim_reads_the_table_once(sql: asyncpg.Connection, key: int) -> None:
    """A claim reads the table of the schedule once, and finds the rows that it takes by their key.

    It does so from the first time on, and when the server has a plan for any arguments, after five times.
    """

    async def scans(name: str) -> int:
        return int(await sql.fetchval("select pg_stat_get_xact_numscans($1::regclass)", f"checkpointd.{name}"))

    for _ in range(8):
        async with sql.transaction():
            table, index = await scans("polling"), await scans("polling_pkey")
            assert 50 == len(await _claim(sql, key, 50, failing=12))
            assert 1 == await scans("polling") - table
            assert 100 <= await scans("polling_pkey") - index


async def test_a_claim_is_later_than_what_it_waited_for(sql: asyncpg.Connection, key: int) -> None:
    """The time of a claim is read when its rows are locked. So no save that came before has a later time."""
    function = await sql.fetchval("select pg_get_functiondef('checkpointd.lock_due_jobs'::regproc)")
    noted = "update checkpointd.sources set last_error = clock_timestamp(); return query"
    await sql.execute(function.replace("return query", noted))
    assert 5 == len(await _claim(sql, key, 5))
    locked = "select last_error::timestamptz from checkpointd.sources"
    claimed = "select min(last_attempt_at) from checkpointd.polling where lease_expires_at is not null"
    assert await sql.fetchval(locked) < await sql.fetchval(claimed)
