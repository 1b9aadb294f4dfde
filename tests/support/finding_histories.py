"""Histories of jobs, stored by SQL, and what was found of them."""

from typing import Final, NamedTuple

import asyncpg

DAY_AGO: Final = "extract(epoch from now() - interval '26 hours')"
FALLING: Final = [(0.9, 1.1), (0.7, 0.9), (0.5, 0.7)]
OVERFITTING: Final = [(0.9, 1.1), (0.7, 0.9), (0.5, 1.2)]
ENDED: Final = "settling_since = now() - interval '1 min', "
PACED: Final = "arrivals = 3, spacing_s = 600, spread_s = 30, newest_seen_at = now() - interval '10 min', "
FAILING: Final = (
    "failing_since = now() - interval '5 min', last_error = 'HTTP 500: no', error_class = 'server', "
    "last_attempt_at = now(), "
)


class History(NamedTuple):
    """A job of an OpenAI source that was last polled a moment ago, and what must be found of it."""

    expected: str
    losses: list[tuple[float | None, float | None]] = FALLING
    """train_loss and full_valid_loss of checkpoints, 100 steps apart."""
    status: str | None = "running"
    former_status: str | None = None
    job: str = ""
    polling: str = ""
    """What else is set in its rows of jobs and polling."""
    more: str = "select"
    """A further statement, in which {job} is its key."""


_ADD = """
with job as (
  insert into checkpointd.jobs (source, id, tracked_by, tracked_at, status)
  select key, $1::text, 'operator', now() - interval '1 day', $2::text from checkpointd.sources where name = 'test'
  returning key, source),
polling as (
  insert into checkpointd.polling (job, source, last_attempt_at, last_complete_at, gap_s)
  select key, source, now() - interval '1 s', now(), 120 from job),
checkpoints as (
  insert into checkpointd.checkpoints (job, id, step_number, train_loss, full_valid_loss, payload)
  select key, format('ckpt-%s-%s', key, n * 100), n * 100, train, valid, '{}'
  from job, unnest($3::float8[], $4::float8[]) with ordinality as loss (train, valid, n)),
changes as (
  insert into checkpointd.changes (job, kind, old_value, new_value, at)
  select key, 'status', $5::text, $2::text, now() - interval '1 min' from job)
select key from job"""


async def add(sql: asyncpg.Connection, name: str, history: History) -> int:
    """Store the history of a job of the source `test`. Returns its key."""
    train, valid = zip(*history.losses, strict=True) if history.losses else ([], [])
    key = await sql.fetchval(_ADD, name, history.status, list(train), list(valid), history.former_status)
    await sql.execute(f"update checkpointd.jobs set {history.job} model = 'x' where key = {key}")
    # A later setting of the same column replaces an earlier one.
    settings = dict(item.split(" = ", 1) for item in f"{history.polling}quiet_polls = 1".split(", "))
    columns = ", ".join(f"{column} = {value}" for column, value in settings.items())
    await sql.execute(f"update checkpointd.polling set {columns} where job = {key}")
    await sql.execute(history.more.format(job=key))
    await sql.execute("select checkpointd.summarise(array[$1::bigint], array[false])", key)
    return int(key)


async def found(sql: asyncpg.Connection) -> dict[str, str]:
    """Return the kinds of the open findings of each job that has any, in alphabetical order."""
    rows = await sql.fetch("""
        select coalesce(fine_tuning_job_id, source) as subject, string_agg(kind, ' ' order by kind) as kinds
        from fine_tuning.findings where until is null group by 1""")
    return {row["subject"]: row["kinds"] for row in rows}
