"""A month of polls, as fast as they go: what grows?

200 jobs are polled once an hour, and each has a new checkpoint every day. The provider lists the last three. So the
rows of history are known in advance, and nothing else may grow.
"""

import resource
from pathlib import Path

import asyncpg

from benchmarks.table import print_row
from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.store import open_store
from checkpointd.telemetry.logs import configure
from support import harness
from support.provider import Provider, checkpoint, page

SIZES = """
    select c.relname, pg_total_relation_size(c.oid) / 1024 as kilobytes
    from pg_class c where c.relnamespace = 'checkpointd'::regnamespace and c.relkind = 'r' order by 2 desc, 1"""
HISTORY = {"checkpoints", "changes", "polls"}


async def play(folder: Path, *, jobs: int = 200, polls: int = 24, days: int = 30, every: int = 10) -> list[int]:
    """Print the sizes of the tables every ten days, and the memory. Returns the kB of the tables without history.

    `polls` are those of each job in a day.
    """
    print_row(
        ["day", "quiet polls", *(f"`{name}`" for name in sorted(HISTORY)), "other tables", "memory"], is_head=True
    )
    configure("json", "error")
    ids, others = [f"ftjob-{n}" for n in range(jobs)], []
    async with EmbeddedPostgres(folder / "month", sync=False) as server, Provider() as provider:
        connection = await connect(server.url)
        await migrations.migrate(connection)
        await connection.close()
        async with open_store(lambda: connect(server.url)) as store:
            await harness.track(store, *ids)
            tracked, sql = await store.find_jobs(ids), await asyncpg.connect(server.url)
            polling = harness.polling_one(store, provider)
            async with polling as (poller, _, outcomes):
                for day in range(1, days + 1):
                    for job in ids:
                        newest_first = [checkpoint(n, job) for n in range(day, max(day - 3, 0), -1)]
                        provider.checkpoints[job] = page(newest_first)
                    for _ in range(polls):
                        await poller.poll_named(tracked)
                        await poller.queue.saved()
                    provider.requests.clear()
                    outcomes.clear()
                    if day % every == 0:
                        others.append(await _print(day, sql))
            await sql.close()
    return others


async def _print(day: int, sql: asyncpg.Connection) -> int:
    await sql.execute("vacuum")
    sizes = {row["relname"]: row["kilobytes"] for row in await sql.fetch(SIZES)}
    polls = await sql.fetchval("select sum(quiet_polls) from checkpointd.polling")
    others = int(sum(size for name, size in sizes.items() if name not in HISTORY))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    history = [f"{sizes[name]:,} kB" for name in sorted(HISTORY)]
    print_row([f"{day}", f"{polls:,}", *history, f"{others:,} kB", f"{memory:.1f} MB"])
    return others
