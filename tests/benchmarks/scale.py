"""How the daemon and the database bear many jobs: `make scale`.

The jobs and their events are due once in a fixed gap, and their lists do not change. The first part runs daemons for a
while, and measures claims (median, p99 and maximum), memory and the table `polling`: one daemon; one beside a dashboard
that keeps a transaction open; three daemons; and one that finds all jobs due at once. The second part shows what the
statements cost the server, by the numbers of jobs, checkpoints and changes (costs.py). The third plays a month of polls
of a few jobs (month.py).
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg

from benchmarks import costs, month
from benchmarks.prepared import answering, store_jobs
from benchmarks.table import print_row
from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from support import verbs

GOALS = "claim p99 50 ms, memory 250 MB, HOT 95 %"


class Phase(NamedTuple):
    """What is measured together."""

    name: str
    daemons: int = 1
    has_dashboard: bool = False
    all_due: bool = False


PHASES = [
    Phase("one daemon"),
    Phase("one, beside an open transaction", has_dashboard=True),
    Phase("three daemons", daemons=3),
    Phase("one, all jobs due at once", all_due=True),
]


class Bench(NamedTuple):
    """A database with the jobs, and the settings of the daemons."""

    url: str
    env: dict[str, str]
    seconds: float


class Figures(NamedTuple):
    """What was measured in a phase."""

    name: str
    polls_per_second: float
    claims_per_second: float
    claims: Sequence[float]
    """Seconds of each claim, as its daemon saw it."""
    processor: Sequence[float]
    """Seconds of each claim, of the server's processor."""
    hot_share: float
    """The share of the updates of `polling` that wrote no index."""
    table_before: float
    table_after: float
    """Megabytes of `polling`."""
    log_per_poll: float
    """Bytes of the write-ahead log."""
    memory: float
    """Megabytes of the largest daemon."""


class _Counters(NamedTuple):
    polls: int
    updates: int
    hot_updates: int
    megabytes: float
    log_bytes: int


async def _counters(sql: asyncpg.Connection) -> _Counters:
    await sql.execute("select pg_stat_clear_snapshot()")
    row = await sql.fetchrow("""
        select (select sum(quiet_polls)::bigint from checkpointd.polling), n_tup_upd, n_tup_hot_upd,
          pg_table_size(relid)::float8 / 1e6, (pg_current_wal_lsn() - '0/0')::bigint
        from pg_stat_user_tables where schemaname = 'checkpointd' and relname = 'polling'""")
    assert row is not None
    return _Counters(*row)


@asynccontextmanager
async def _dashboard(url: str) -> AsyncIterator[None]:
    """Keep a transaction open that has read a view."""
    reader = await asyncpg.connect(url)
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        await reader.fetch("select count(*) from fine_tuning.jobs")
        yield
    await reader.close()


async def run_phase(bench: Bench, phase: Phase) -> Figures:
    """Run daemons for a while, and return what was measured."""
    sql = await asyncpg.connect(bench.url)
    due = "clock_timestamp()" if phase.all_due else "clock_timestamp() + random() * gap_s * interval '1 s'"
    await sql.execute(f"update checkpointd.polling set next_poll_at = {due}, lease_expires_at = null")
    # Each event list was read once, and is due as often as its job.
    await sql.execute(f"""
        insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, read_from, complete_from)
        select job, 0, clock_timestamp(), {due}, clock_timestamp(), clock_timestamp() from checkpointd.polling
        on conflict (job) do update
        set due_at = excluded.due_at, read_from = excluded.read_from, complete_from = excluded.complete_from""")
    await sql.execute("vacuum analyze checkpointd.polling, checkpointd.event_lists")
    before, started = await _counters(sql), time.perf_counter()
    async with AsyncExitStack() as stack:
        if phase.has_dashboard:
            await stack.enter_async_context(_dashboard(bench.url))
        program = (sys.executable, "-m", "benchmarks.timed_daemon")
        daemons = [
            await asyncio.create_subprocess_exec(*program, env=bench.env, stdout=PIPE) for _ in range(phase.daemons)
        ]
        await asyncio.sleep(bench.seconds)  # the time to measure
        after = await _counters(sql)
        took = time.perf_counter() - started
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        outputs = [json.loads((await daemon.communicate())[0]) for daemon in daemons]
    await sql.close()
    elapsed, processor = zip(*(claim for output in outputs for claim in output["claims"]), strict=True)
    return Figures(
        phase.name,
        (after.polls - before.polls) / took,
        len(elapsed) / took,
        elapsed,
        processor,
        (after.hot_updates - before.hot_updates) / max(after.updates - before.updates, 1),
        before.megabytes,
        after.megabytes,
        (after.log_bytes - before.log_bytes) / max(after.polls - before.polls, 1),
        max(output["megabytes"] for output in outputs),
    )


def row(figures: Figures) -> list[str]:
    """Return the cells of a row."""
    return [
        figures.name,
        f"{figures.polls_per_second:.0f}",
        f"{figures.claims_per_second:.1f}",
        _percentiles(figures.claims),
        _percentiles(figures.processor),
        f"{figures.hot_share:.1%}",
        f"{figures.table_before:.0f} → {figures.table_after:.0f} MB",
        f"{figures.log_per_poll:.0f} B",
        f"{figures.memory:.0f} MB",
    ]


def _percentiles(seconds: Sequence[float]) -> str:
    """Return median, p99 and maximum in milliseconds."""
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return ", ".join(f"{1000 * one:.0f}" for one in (percentiles[49], percentiles[98], max(seconds))) + " ms"


async def measure_phases(
    folder: Path, jobs: int, gap: float, seconds: float, phases: Sequence[Phase]
) -> AsyncIterator[Figures]:
    """Run the phases, and yield what was measured in each."""
    async with EmbeddedPostgres(folder / "postgres") as server, answering() as api:
        connection = await connect(server.url)
        await migrations.migrate(connection)
        await connection.close()
        await store_jobs(server.url, "openai", jobs, gap)
        env = verbs.environment(folder, server.url, api) | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CHECKPOINTD_MIN_POLL_SECONDS": str(gap),
            "CHECKPOINTD_MAX_POLL_SECONDS": str(gap),
            "CHECKPOINTD_LOG_LEVEL": "warning",
        }
        for phase in phases:
            yield await run_phase(Bench(server.url, env, seconds), phase)


async def _print_phases(folder: Path, jobs: int, gap: float, seconds: float, phases: Sequence[Phase]) -> None:
    columns = [
        *("daemons", "polls/s", "claims/s", "claim", "its processor time", "HOT updates", "`polling`"),
        *("WAL per poll", "memory"),
    ]
    print_row(columns, is_head=True)
    async for figures in measure_phases(folder, jobs, gap, seconds, phases):
        print_row(row(figures))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=f"Measures the daemon with many jobs. Goals: {GOALS}.")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--gap", type=float, default=300, help="seconds between two polls of a job")
    parser.add_argument("--seconds", type=float, default=60, help="how long the daemons of each row run")
    parser.add_argument("--part", choices=["daemons", "costs", "month"], help="only this part")
    parser.add_argument("--million", action="store_true", help="the costs also with a million jobs")
    parser.add_argument("--phase", default="", help="only the rows of daemons with this name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkpointd-scale-") as name:
        folder = Path(name)
        if args.part in {None, "daemons"}:
            phases = [phase for phase in PHASES if args.phase in phase.name]
            asyncio.run(_print_phases(folder, args.jobs, args.gap, args.seconds, phases))
        if args.part in {None, "costs"}:
            asyncio.run(costs.measure(folder, costs.MILLION if args.million else costs.SIZES))
        if args.part in {None, "month"}:
            asyncio.run(month.play(folder))


if __name__ == "__main__":
    main()
