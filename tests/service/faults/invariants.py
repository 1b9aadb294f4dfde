"""What must hold whatever happens: SQL over the provider's record and the views. Each statement returns no row.

The record is read after the snapshot with which it is compared, so that it is never older than what was stored from it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg

from service.faults.truth import Truth

UNAVAILABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a reader meets while the database is down or the connection is cut."""

ALWAYS = {
    # A complete poll stores each checkpoint that was listed from before it began until after it ended.
    "lost": """
select l.id from listed l join fine_tuning.freshness f on f.fine_tuning_job_id = l.job
where f.last_complete_at >= f.last_attempt_at
  and l.listed_from < f.last_attempt_at and coalesce(l.listed_to, 'infinity') > f.last_complete_at
  and not exists (select from fine_tuning.checkpoints c where c.fine_tuning_job_id = l.job and c.id = l.id)""",
    "duplicate": """
select c.id from fine_tuning.checkpoints c group by c.id having count(*) > 1 union all
select c.checkpoint_id from fine_tuning.changes c where c.kind = 'new' group by c.checkpoint_id having count(*) > 1""",
    "invented, or of another job": """
select c.id from fine_tuning.checkpoints c
where not exists (select from listed l where l.job = c.fine_tuning_job_id and l.id = c.id)""",
    "half-written: a checkpoint without its change": """
select c.id from fine_tuning.checkpoints c where not exists (select from fine_tuning.changes h
  where h.kind = 'new' and h.checkpoint_id = c.id and h.fine_tuning_job_id = c.fine_tuning_job_id)""",
    "half-written: a change without its checkpoint": """
select h.seq from fine_tuning.changes h where h.kind not in ('status', 'fired', 'resolved')
  and not exists (select from fine_tuning.checkpoints c
    where c.id = h.checkpoint_id and c.fine_tuning_job_id = h.fine_tuning_job_id)""",
    "half-written: a poll and its changes do not match": """
select p.id from fine_tuning.polls p left join fine_tuning.changes h on h.poll_id = p.id
group by p.id, p.new, p.changed
having p.new <> count(*) filter (where h.kind = 'new')
  or p.changed <> count(distinct h.checkpoint_id) filter (where h.kind <> 'new')
union all select h.poll_id from fine_tuning.changes h
where h.kind not in ('status', 'fired', 'resolved')
  and not exists (select from fine_tuning.polls p where p.id = h.poll_id)""",
    "half-written: a finding and its changes do not match": """
select f.id from fine_tuning.findings f left join fine_tuning.changes h on h.finding_id = f.id
group by f.id, f.until
having count(*) filter (where h.kind = 'fired') <> 1
  or count(*) filter (where h.kind = 'resolved') <> (f.until is not null)::int""",
    "half-written: a job and its checkpoints do not match": """
select j.id from fine_tuning.jobs j left join fine_tuning.checkpoints c on c.fine_tuning_job_id = j.id
group by j.id, j.checkpoint_count, j.latest_step
having j.checkpoint_count <> count(c.id) or j.latest_step is distinct from max(c.step_number)""",
    "feed out of order": """
select o.seq from (select c.seq, c.at < lag(c.at) over (order by c.seq) as back from fine_tuning.changes c) o
where o.back""",
    "missed by a reader of the feed": """
select c.seq from fine_tuning.changes c where c.seq <= (select max(seq) from followed)
  and not exists (select from followed f where f.seq = c.seq)""",
    "deleted": """
select s.id from stored_before s where not exists (select from fine_tuning.checkpoints c where c.id = s.id)""",
    # A poll is complete only if every page was sent between its claim and its save.
    "false success": """
select f.fine_tuning_job_id from fine_tuning.freshness f
where f.last_complete_at is not null and not exists (select from complete c where c.job = f.fine_tuning_job_id
  and c.ended <= f.last_complete_at and (f.last_complete_at < f.last_attempt_at or c.started >= f.last_attempt_at))
union all
select f.fine_tuning_job_id from fine_tuning.freshness f where f.last_success_at > f.last_complete_at""",
    # A daemon that is suspended, or cut off, in the middle of a statement leaves a transaction open for so long.
    "a transaction that does not end": """
select concat_ws(' ', a.pid, a.state, a.wait_event, a.query) from pg_stat_activity a
where a.application_name = 'checkpointd' and a.datname = current_database()
  and a.xact_start < clock_timestamp() - interval '30 s'""",
}
"""What must hold at any time."""

AT_THE_END = {
    "lost at the end": """
select l.id from listed l where l.listed_to is null
  and not exists (select from fine_tuning.checkpoints c where c.fine_tuning_job_id = l.job and c.id = l.id)""",
    "a value lost at the end": """
select l.id from listed l join fine_tuning.checkpoints c on c.fine_tuning_job_id = l.job and c.id = l.id
where l.listed_to is null and c.full_valid_loss is distinct from l.full_valid_loss""",
    "stuck": """
select f.fine_tuning_job_id from fine_tuning.freshness f
where f.consecutive_failures > 0 or f.is_stale or f.last_complete_at is null
  or f.last_complete_at < (select at from healed)""",
}
"""What must hold when every job has been polled after the last fault, at the time `healed`."""

HARM = {
    "lost": "lost",
    "lost at the end": "lost",
    "a value lost at the end": "lost",
    "deleted": "lost",
    "missed by a reader of the feed": "lost",
    "duplicate": "duplicated",
    "half-written": "half-written",
    "invented, or of another job": "wrong job",
}
"""The kinds of harm that are counted in the results of a play. Everything else is `other`."""

_TABLES = """
create temp table listed (job text, id text primary key, listed_from timestamptz, listed_to timestamptz,
  full_valid_loss float8) on commit drop;
create temp table complete (job text, started timestamptz, ended timestamptz) on commit drop;
create temp table stored_before (id text primary key) on commit drop;
create temp table followed (seq bigint primary key) on commit drop;
create temp table healed (at timestamptz) on commit drop;"""


class Invariants:
    """Compares a database with the provider's record, and follows the feed meanwhile as a reader does."""

    def __init__(self, url: str, truth: Truth, violations: Counter[str], without: Collection[str] = ()) -> None:
        """Violations are raised, and counted in `violations` by kind of harm. `without` names what is not checked."""
        self._url = url
        self._truth = truth
        self._counts = violations
        self._without = without
        self._stored: set[str] = set()
        """The checkpoints that were stored at an earlier check."""
        self._followed: set[int] = set()
        self._last_seq = 0
        self._is_over = False
        self.checks = 0

    async def check(self) -> None:
        """Raise AssertionError if something does not hold."""
        self._assert_none(await self._violations(ALWAYS, healed=0))
        self.checks += 1

    @asynccontextmanager
    async def checked(self, growth: float = 0.2, pause: float = 1) -> AsyncIterator[None]:
        """Check every `pause` seconds during the block. A job grows every `growth` seconds, and a reader follows."""
        async with asyncio.TaskGroup() as group:
            works = (self._truth.keep_growing(growth), self._follow(), self._keep_checking(pause))
            tasks = [group.create_task(work) for work in works]
            self._is_over = False
            try:
                yield
            finally:
                self._is_over = True  # a cancellation may be lost, for example by connecting with a timeout
                for task in tasks:
                    task.cancel()

    async def _keep_checking(self, pause: float) -> None:
        while not self._is_over:
            started = time.monotonic()
            with suppress(*UNAVAILABLE):
                await self.check()
            await asyncio.sleep(max(pause, 5 * (time.monotonic() - started)))  # most of the time is for the daemons

    async def until_all_is_stored(self, seconds: float = 180) -> float:
        """Wait until everything listed is stored and each job was polled from now on, for at most so many seconds.

        Returns how many seconds it took.
        """
        loop, now = asyncio.get_running_loop(), time.time()
        started, deadline = loop.time(), loop.time() + seconds
        while True:
            checking = loop.time()
            violations = await self._violations({**ALWAYS, **AT_THE_END}, healed=now)
            self._assert_none({name: rows for name, rows in violations.items() if name in ALWAYS})
            self.checks += 1
            if not violations or loop.time() > deadline:
                break
            await asyncio.sleep(max(0.1, 2 * (loop.time() - checking)))  # most of the time is for the daemons
        self._assert_none(violations)
        return loop.time() - started

    def _assert_none(self, violations: dict[str, list[Any]]) -> None:
        for name, rows in violations.items():
            self._counts[HARM.get(name.partition(":")[0], "other")] += len(rows)
        assert not violations, {name: f"{len(rows)}: {rows[:3]}" for name, rows in violations.items()}

    async def _follow(self) -> None:
        """Read the feed as it grows, and remember only the last seq. A lost connection is opened again."""
        changes = "select seq from fine_tuning.changes where seq > $1 order by seq"
        while not self._is_over:
            with suppress(*UNAVAILABLE):
                sql = await asyncpg.connect(self._url, timeout=5)
                try:
                    while not self._is_over:
                        rows = await sql.fetch(changes, self._last_seq)
                        self._followed.update(row["seq"] for row in rows)
                        self._last_seq = rows[-1]["seq"] if rows else self._last_seq
                        await asyncio.sleep(0.02)  # the interval of the reader
                finally:
                    sql.terminate()
            await asyncio.sleep(0.1)  # before the next attempt to connect

    async def _violations(self, statements: dict[str, str], healed: float) -> dict[str, list[Any]]:
        """Return what does not hold, each with the rows that violate it."""
        sql = await asyncpg.connect(self._url, timeout=10)
        try:
            async with sql.transaction(isolation="repeatable_read"):
                await sql.fetchval("select count(*) from fine_tuning.checkpoints")  # takes the snapshot
                await self._copy_record(sql, healed)
                checked = {name: s for name, s in statements.items() if name not in self._without}
                found = {name: [row[0] for row in await sql.fetch(s)] for name, s in checked.items()}
                stored = [row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")]
        finally:
            await sql.close()
        self._stored.update(stored)
        return {name: rows for name, rows in found.items() if rows}

    async def _copy_record(self, sql: asyncpg.Connection, healed: float) -> None:
        truth = self._truth
        tables: dict[str, list[tuple[Any, ...]]] = {
            "listed": [(o.job, o.id, _time(o.since), _time(o.until), o.full_valid_loss) for o in truth.listed.values()],
            "complete": [(o.job, _time(o.started), _time(o.ended)) for o in truth.complete],
            "stored_before": [(checkpoint_id,) for checkpoint_id in self._stored],
            "followed": [(seq,) for seq in self._followed],
            "healed": [(_time(healed),)],
        }
        await sql.execute(_TABLES)
        for table, records in tables.items():
            await sql.copy_records_to_table(table, records=records)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
