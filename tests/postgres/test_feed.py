"""The feed: a reader that remembers the last seq that it read misses no change, and reads in commit order.

What it reads is complete: see test_an_unstable_job_is_replayed here, and the histories of tests/model.
"""

import asyncio
import random
from itertools import count

import asyncpg
import pytest

from checkpointd.domain.growth import RECOVERY_LISTINGS
from checkpointd.postgres.store import Store
from model.replay import Feed
from support.harness import sync
from support.logins import connected
from support.provider import JOB, Provider, checkpoint, page

WRITERS, COMMITS = 4, 40
APPEND = """
    insert into checkpointd.changes (at, job, kind, checkpoint_id, new_value)
    select $1, 1, 'new', $2, n::text from generate_series(1, $3::int) as n"""
FEED = "select seq, checkpoint_id from fine_tuning.changes where seq > $1 order by seq"


async def _write(url: str, writer: int) -> None:
    """Append changes as saves do, with random pauses before the commits, such as a network or a disk causes."""
    pauses = random.Random(writer)
    connection = await asyncpg.connect(url)
    for commit in range(COMMITS):
        async with connection.transaction():
            name = f"{writer}-{commit}"
            count = pauses.randint(1, 5)
            at = await connection.fetchval("select checkpointd.open_feed()")
            await connection.execute(APPEND, at, name, count)
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
    await sql.execute("insert into checkpointd.sources (key, name, kind) values (1, 'test', 'openai')")
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


async def test_without_the_gate_a_reader_misses_changes(url: str, sql: asyncpg.Connection) -> None:
    """Without the lock on the feed gate the same reader misses changes, which shows that the test above can fail."""
    definition = await sql.fetchval("select pg_get_functiondef('checkpointd.open_feed'::regproc)")
    await sql.execute(definition.replace(" for no key update", ""))
    read, missed = await _run(url, sql)
    assert missed
    assert len(read) < await sql.fetchval("select count(*) from fine_tuning.changes")


@pytest.mark.fast_cases(0)
@pytest.mark.parametrize("seed", range(4))
async def test_an_unstable_job_is_replayed(
    store: Store, provider: Provider, sql: asyncpg.Connection, seed: int
) -> None:
    """The feed, and metrics_as_of, show what was shown at each time, also of a job that is unstable for a while."""
    feed, chance, unstable = Feed(JOB), random.Random(seed), 0

    async def list_and_check(items: list[dict[str, object]]) -> None:
        provider.checkpoints[JOB] = page(items)
        await sync(store, provider)
        changes = await sql.fetch("select * from fine_tuning.changes order by seq")
        checkpoints = await sql.fetch("select * from fine_tuning.checkpoints")
        assert {} == await feed.differences(sql, changes, checkpoints)

    turns = count()

    def items() -> list[dict[str, object]]:
        known = chance.sample(["train_loss", "valid_loss", "full_valid_loss", "reward"], chance.randint(0, 4))
        turn = next(turns)
        first = f"reward_{turn}"  # of an unstable job only such metrics are stored
        constant = 0.5 if turn < 5 else chance.choice([None, 0.5])
        return [
            checkpoint(
                n,
                valid_mean_token_accuracy=constant,
                **{name: chance.choice([None, 0.25, 1e-7, 1e15]) for name in (*known, first)},
            )
            for n in (3, 2, 1)
        ]

    for _ in range(3):
        for _ in range(9):
            await list_and_check(items())
            unstable += await sql.fetchval("select count(unstable_since) from fine_tuning.jobs")
        steady = items()
        for _ in range(RECOVERY_LISTINGS + 4):
            await list_and_check(steady)
        assert not await sql.fetchval("select count(unstable_since) from fine_tuning.jobs")
    assert unstable
