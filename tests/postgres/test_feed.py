"""The feed: a reader that remembers the last seq that it read misses no change, and reads in commit order."""

import asyncio
import random

import asyncpg
import pytest

from checkpointd.postgres import queries
from checkpointd.postgres.rows import ChangeRow
from checkpointd.postgres.save_rows import write_changes
from support.logins import connected

WRITERS, COMMITS = 4, 40
FEED = "select seq, checkpoint_id from fine_tuning.changes where seq > $1 order by seq"


async def _write(url: str, writer: int) -> None:
    """Commit changes as saves do, with random pauses before the commits, such as a network or a disk causes."""
    pauses = random.Random(writer)
    connection = await asyncpg.connect(url)
    for commit in range(COMMITS):
        async with connection.transaction():
            name = f"{writer}-{commit}"
            count = pauses.randint(1, 5)
            changes = [ChangeRow(1, None, "new", name, None, None, f"{n}") for n in range(count)]
            await write_changes(connection, changes)
            await asyncio.sleep(pauses.uniform(0, 0.01))  # so that other writers overtake this one
    await connection.close()


async def _follow(reader: asyncpg.Connection, writers: asyncio.Task[object]) -> tuple[list[asyncpg.Record], bool]:
    """Read from the last seq on, again and again, until all is written.

    Returns what was read, and whether a read ever missed a change.
    """
    read: list[asyncpg.Record] = []
    missed, ended = False, False
    while not ended:
        ended = writers.done()
        read += await reader.fetch(FEED, read[-1]["seq"] if read else 0)
        up_to = "select count(*) from fine_tuning.changes where seq <= $1"
        missed |= bool(read) and len(read) != await reader.fetchval(up_to, read[-1]["seq"])
        await asyncio.sleep(0)  # let the writers run
    return read, missed


async def _run(url: str, sql: asyncpg.Connection) -> tuple[list[asyncpg.Record], bool]:
    """Let four writers commit at the same time, while a reader follows."""
    await sql.execute("insert into checkpointd.sources (name, kind) values ('test', 'openai')")
    await sql.execute("insert into checkpointd.jobs (source, id, tracked_by) values (1, 'ftjob-1', 'operator')")
    async with connected(url, "in role checkpointd_reader") as reader:
        writers = asyncio.ensure_future(asyncio.gather(*(_write(url, writer) for writer in range(WRITERS))))
        read, missed = await _follow(reader, writers)
        await writers
    return read, missed


async def test_a_reader_misses_nothing(url: str, sql: asyncpg.Connection) -> None:
    """With four writers, a reader from the last seq reads every change once, and each commit without gaps."""
    read, missed = await _run(url, sql)
    assert not missed
    assert await sql.fetch(FEED, 0) == read
    commits = [row["checkpoint_id"] for row in read]
    runs = [name for name, before in zip(commits, [None, *commits], strict=False) if name != before]
    assert WRITERS * COMMITS == len(runs) == len(set(runs))
    for writer in range(WRITERS):
        own = [name for name in runs if name.startswith(f"{writer}-")]
        assert [f"{writer}-{commit}" for commit in range(COMMITS)] == own


async def test_without_the_gate_a_reader_misses_changes(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock on the feed gate the same reader misses changes, which shows that the test above can fail."""
    ungated = queries.INSERT_CHANGES.replace("(select one from checkpointd.feed_gate for no key update)", "(select 1)")
    monkeypatch.setattr(queries, "INSERT_CHANGES", ungated)
    read, missed = await _run(url, sql)
    assert missed
    assert len(read) < await sql.fetchval("select count(*) from fine_tuning.changes")
