"""The SQL makes the transitions of the table of job states, and no others.

Every statement that writes a job is run on every reachable row of a job, with every combination of parameters. The
search starts with a new job, and continues with each row that a statement has written, until no new row appears.
"""

import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import asyncpg

from checkpointd.domain.arrivals import Arrivals
from checkpointd.domain.attribution import Verdict
from checkpointd.domain.cadence import CadenceSettings
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job_state import TRANSITIONS, JobEvent, JobState
from checkpointd.domain.listing import digest
from checkpointd.domain.poll import Lease, PollResult, evaluate
from checkpointd.postgres import queries
from checkpointd.postgres.rows import (
    ChangeRow,
    CheckpointRow,
    MarkRow,
    PollRow,
    QuietRow,
    RecordRow,
    RejectRow,
    StatusRow,
    columns,
)
from support.lists import raw_listing

DAY = 86400.0
NOW = 1_800_000_000.0
SAME, OTHER = [b"{}"], [b"[]"]
"""Two pages: that of the last complete listing, and one that differs."""


class Snapshot(NamedTuple):
    """What a lease carries of its job: whether settling_since and digest are set, and the status has ended."""

    settling: bool
    digest: bool
    ended: bool


class Row(NamedTuple):
    """The state of a job, and the columns that decide it, now or after a later statement."""

    state: JobState
    untracked: bool
    sealed: bool
    gone: bool
    error_class: str | None
    settling: str | None
    """Whether settling_since is before or after the last claim, or None."""
    poll_again: bool
    equal_listings: int
    """At most 2: the third quiet poll seals."""
    digest: bool
    never_due: bool
    complete: bool
    """There was a complete listing."""
    ended: bool
    """The status has ended."""
    leased: bool
    lease: Snapshot | None = None


class Call(NamedTuple):
    """A statement for one job, its event and its parameters. If it has no event, it must not change the state."""

    statement: str
    event: JobEvent | None
    parameters: tuple[Any, ...] = ()
    rejected: int = 0
    """The column of this name. It is not in Row, because it decides only whether a quiet poll seals."""


Work = Sequence[tuple[Row, Call]]
"""The calls of one statement. The keys of their jobs are 1, 2, 3, and so on."""

WITHOUT_EVENT = (
    "discover_jobs",
    "claim_due_jobs",
    "claim_named_jobs",
    "release_leases",
    "wake_failing_jobs",
)
"""Statements that must not change the state of a job."""

_STATUS = {True: "succeeded", False: "training"}

_WRITE = """
with given as materialized (
  select * from json_to_recordset($1) as g (key bigint, untracked bool, sealed bool, gone bool, error_class text,
    settling text, poll_again bool, equal_listings int, digest bool, never_due bool, complete bool, status text,
    leased bool, expired bool, ahead bool, rejected int)),
job as (
  insert into checkpointd.jobs (key, source, id, tracked_by, untracked_at, status) overriding system value
  select key, 1, 'job-' || key, 'operator', case when untracked then now() end, status from given)
insert into checkpointd.polling (job, source, lease_token, sealed_at, is_gone, error_class, failures, settling_since,
  poll_again, equal_listings, digest, next_poll_at, last_complete_at, last_attempt_at, lease_expires_at, rejected)
select key, 1, 1, case when sealed and ahead then now() + interval '1 hour' when sealed then now() end,
  gone, error_class, (error_class is not null)::int,
  now() - case settling when 'before' then interval '1 day' when 'after' then interval '30 s' end, poll_again,
  equal_listings, case when digest then sha256('') end, case when never_due then 'infinity' else now() end,
  case when complete then now() end, now() - interval '1 min',
  now() + case when leased and expired then interval '-1 s' when leased then interval '1 hour' end, rejected
from given"""

REMOVE = """
    truncate checkpointd.jobs, checkpointd.polling, checkpointd.summaries, checkpointd.rejects, checkpointd.polls,
      checkpointd.event_lists, checkpointd.objectives, checkpointd.findings"""

_READ = """
select j.key, v.phase as state, j.untracked_at is not null as untracked, p.sealed_at is not null as sealed,
  p.is_gone as gone, p.error_class,
  case when p.settling_since < p.last_attempt_at then 'before' when p.settling_since is not null then 'after' end
    as settling,
  p.poll_again, least(p.equal_listings, 2) as equal_listings, p.digest is not null as digest,
  p.next_poll_at = 'infinity' as never_due, p.last_complete_at is not null as complete,
  j.status is not distinct from 'succeeded' as ended, p.lease_expires_at is not null as leased
from checkpointd.polling p join checkpointd.jobs j on j.key = p.job join fine_tuning.jobs v on v.id = j.id"""


@cache
def _polls(lease: Snapshot, error_class: str | None, *, gone: bool) -> list[PollResult]:
    """Return the results that evaluate() can return for a lease, one for each combination of parameters."""
    history = [(5, NOW - DAY)] if gone else [(1, NOW - 60), (5, NOW - DAY)]
    failures = [Failure(ErrorClass(name), "") for name in ("missing", "forbidden", "network", "throttled")]
    raws = [raw_listing(SAME), raw_listing(OTHER)]
    raws += [raw_listing(failure=failure) for failure in failures]
    raws += [raw_listing(OTHER, failure=failure) for failure in failures if failure.error_class != "missing"]
    found: dict[tuple[Any, ...], PollResult] = {}
    for count, since in history:
        full = Lease(
            job=1, source=1, lease_token=1, digest=digest(raw_listing(SAME).bodies) if lease.digest else None,
            content_digest=None,
            instability=0, failures=count,
            equal_failures=count, failing_since=since, error_class=error_class,
            settling_since=NOW - 10 * DAY if lease.settling else None, last_change_at=None, newest_step=None,
            newest_seen_at=None, arrivals=0, arrival_error_s=0, first_arrival_s=None, spacing_s=None, spread_s=None,
            publication_delay_s=0, last_complete_at=None, claimed_at=NOW, waited_s=0, epoch_estimate_s=None,
            id="job",
            status=_STATUS[lease.ended], tracked_at=NOW - 10 * DAY, source_not_ok=False, is_listed=False,
        )  # fmt: skip
        for raw in raws:
            for settle, assume_ended in ((0, 60), (0, 365 * DAY), (DAY, 60), (365 * DAY, 60), (365 * DAY, 365 * DAY)):
                for verdict in (Verdict(), Verdict(source_fails=True)):
                    cadence = CadenceSettings(15, 300, settle, assume_ended)
                    poll = evaluate(full, raw, cadence, lambda _: False, verdict)
                    # The statement has these values as parameters. Only that of a quiet poll has the last two.
                    key = (poll.complete, poll.listing is None, poll.error_class, poll.blames_job, poll.gone)
                    found[*key, *((poll.ended, poll.settled) if poll.quiet else ())] = poll
    return list(found.values())


def _quiet(row: Row, poll: PollResult) -> Iterator[Call]:
    for rejected in (0, 1):
        if row.poll_again or not poll.ended:
            event = JobEvent.QUIET
        elif poll.settled and row.equal_listings == 2 and rejected == 0:
            event = JobEvent.SETTLED
        else:
            event = JobEvent.QUIET_ENDED
        yield Call("save_quiet_polls", event, (60.0, poll.ended, poll.settled, poll.digest, None, 0, False), rejected)


def _finished(lease: Snapshot, poll: PollResult) -> Iterator[Call]:
    for changed in (False, True) if poll.listing else (False,):
        reopens = changed and not lease.ended
        if poll.complete:
            event = JobEvent.CHANGED if reopens else JobEvent.LISTED
        elif poll.error_class == ErrorClass.MISSING:
            event = JobEvent.NOT_FOUND_FOR_LONG if poll.gone else JobEvent.NOT_FOUND
        elif poll.error_class == ErrorClass.FORBIDDEN:
            event = JobEvent.FORBIDDEN
        else:
            event = JobEvent.FAILED if poll.blames_job else JobEvent.SOURCE_FAILED
        row = PollRow(
            job=0, lease_token=1, delay=60.0, gap=60.0, complete=poll.complete, reopens=not lease.ended,
            digest=poll.digest if poll.complete else None, content_digest=poll.content_digest, absent_ids=None,
            unconfirmed_steps=None, instability=0, unstable=False, rejected=0 if poll.listing else None,
            error_class=poll.error_class, error=poll.error, **Arrivals()._asdict(),
            blames_job=poll.blames_job, gone=poll.gone, items=0, new=0, changed=int(changed), burst=False,
        )  # fmt: skip
        yield Call("save_polls", event, row[2:])


def _calls(row: Row) -> Iterator[Call]:
    """Yield everything that can happen to a job with this row."""
    yield Call("track_jobs", JobEvent.TRACKED)
    yield Call("untrack_jobs", JobEvent.UNTRACKED)
    yield Call("resync_jobs", JobEvent.RESYNCED)
    for ended in (False, True):
        for wake in (True,) if row.ended else (True, False):  # false for the first status of a job
            yield Call("save_job_records", JobEvent.ENDED if ended else JobEvent.RUNNING, (ended, wake))
    yield Call("record_listed_jobs", JobEvent.SHOWN)
    yield Call("reopen_sealed_jobs", JobEvent.CLOCK_SET_BACK)
    for statement in WITHOUT_EVENT:
        yield Call(statement, None)
    if row.lease:
        for poll in _polls(row.lease, row.error_class, gone=row.gone):
            yield from _quiet(row, poll) if poll.quiet else _finished(row.lease, poll)


def _keys(work: Work) -> list[int]:
    return list(range(1, len(work) + 1))


def _ids(work: Work) -> list[str]:
    return [f"job-{key}" for key in _keys(work)]


def _rows(kind: type[tuple[object, ...]], work: Work, *more: Any) -> list[list[object]]:
    """Return the rows of a statement, one list for each column: the key, `more`, and the parameters of the call."""
    return columns(kind, [(key, *more, *call.parameters) for key, (_, call) in enumerate(work, 1)])


async def _save_records(sql: asyncpg.Connection, work: Work) -> None:
    """Save job records with new statuses, and then those of the jobs that are not left out, as a daemon does."""
    new = {key: _STATUS[call.parameters[0]] for key, (_, call) in enumerate(work, 1)}
    for _ in range(2):
        records = [RecordRow(key, status, *[None] * 9, "{}") for key, status in new.items()]
        old = {key: "running" if work[key - 1][1].parameters[1] else None for key in new}
        statuses = [StatusRow(key, status == _STATUS[True], False, old[key], status) for key, status in new.items()]
        arrays = [*columns(RecordRow, records), *columns(StatusRow, statuses), *columns(RejectRow, [])]
        ((saved,),) = await sql.fetch(queries.SAVE_JOB_RECORDS, 1, 1, 0, *arrays)
        new = {key: new[key] for key in saved}


NOTHING_ELSE = [array for kind in (CheckpointRow, MarkRow, RejectRow, ChangeRow) for array in columns(kind, [])]
"""No checkpoints, marks, rejects and changes."""

STATEMENTS: Mapping[str, Callable[[asyncpg.Connection, Work], Awaitable[Any]]] = {
    "track_jobs": lambda sql, work: sql.fetch(queries.TRACK_JOBS, 1, _ids(work)),
    "untrack_jobs": lambda sql, work: sql.fetch(queries.UNTRACK_JOBS, _keys(work)),
    "resync_jobs": lambda sql, work: sql.fetch(queries.RESYNC_JOBS, _keys(work)),
    "discover_jobs": lambda sql, work: sql.fetch(queries.DISCOVER_JOBS, 1, 1, _ids(work), 1, 1),
    "save_job_records": _save_records,
    "claim_due_jobs": lambda sql, work: sql.fetch(
        queries.CLAIM_DUE_JOBS, [1], *[[len(work)]] * 2, [None], 60.0, ["overdue"], 2, 300.0
    ),
    "claim_named_jobs": lambda sql, work: sql.fetch(
        queries.CLAIM_NAMED_JOBS, _keys(work), [1] * len(work), [], [], 60.0
    ),
    "release_leases": lambda sql, work: sql.fetch(queries.RELEASE_LEASES, _keys(work), [1] * len(work)),
    "wake_failing_jobs": lambda sql, _: sql.fetch(queries.WAKE_FAILING_JOBS, [1]),
    "reopen_sealed_jobs": lambda sql, _: sql.fetch(queries.REOPEN_SEALED_JOBS),
    "record_listed_jobs": lambda sql, work: sql.fetch(queries.RECORD_LISTED_JOBS, 1, 1, _ids(work)),
    "save_quiet_polls": lambda sql, work: sql.fetch(queries.SAVE_QUIET_POLLS, *_rows(QuietRow, work, 1)),
    "save_polls": lambda sql, work: sql.fetch(queries.SAVE_POLLS, True, 0, *_rows(PollRow, work, 1), *NOTHING_ELSE),
}
"""The statements and functions that write jobs or polling, and how each is run for many jobs at once."""


async def _read(sql: asyncpg.Connection) -> dict[int, Row]:
    return {key: Row(JobState(state), *rest) for key, state, *rest in await sql.fetch(_READ)}


async def _run(sql: asyncpg.Connection, statement: str, work: Work) -> list[Row]:
    """Write the rows, run a statement on all of them, and remove them. Returns the rows after it."""
    given = [
        {
            **row._asdict(), "key": key, "status": _STATUS[row.ended], "rejected": call.rejected,
            "expired": statement.startswith("claim"),  # a lease that another daemon may take over
            "ahead": statement == "reopen_sealed_jobs",  # the clock, when the job was sealed
        } for key, (row, call) in enumerate(work, 1)
    ]  # fmt: skip
    await sql.execute(_WRITE, json.dumps(given))
    result = await STATEMENTS[statement](sql, work)
    after = await _read(sql)
    await sql.execute(REMOVE)
    leases = {key: row.lease for key, (row, _) in enumerate(work, 1)}
    for claimed in result if statement.startswith("claim") else ():
        settling, ended = claimed["settling_since"] is not None, claimed["status"] == _STATUS[True]
        leases[claimed["job"]] = Snapshot(settling, claimed["digest"] is not None, ended)
    return [_with_lease(after[key], lease) for key, lease in leases.items()]


def _with_lease(row: Row, lease: Snapshot | None) -> Row:
    """Return a row with what its lease carries. Without a lease the next claim will be after settling_since."""
    if row.leased:
        return row._replace(lease=lease)
    return row._replace(settling=row.settling and "before")


async def _observe(sql: asyncpg.Connection) -> set[tuple[JobState, str, JobState]]:
    """Run every statement on every reachable row. Returns state, event or statement, and next state."""
    await sql.execute(
        """insert into checkpointd.sources (key, name, kind, job_list_lease_token, job_list_lease_expires_at)
        values (1, 'test', 'openai', 1, now() + interval '1 day')"""
    )
    await sql.fetch(queries.TRACK_JOBS, 1, ["tracked"])
    await sql.fetch(queries.DISCOVER_JOBS, 1, 1, ["discovered"], 1, 1)
    rows = set((await _read(sql)).values())
    assert {JobState.ACTIVE} == {row.state for row in rows}
    await sql.execute(REMOVE)
    observed = set()
    known: set[Row] = set()
    while rows:
        known |= rows
        work = defaultdict(list)
        for row in rows:
            for call in _calls(row):
                work[call.statement].append((row, call))
        rows = set()
        for statement, calls in work.items():
            for (before, call), after in zip(calls, await _run(sql, statement, calls), strict=True):
                observed.add((before.state, call.event or statement, after.state))
                rows.add(after)
        rows -= known
    return observed


async def test_sql_makes_the_transitions_of_the_table(sql: asyncpg.Connection) -> None:
    """Each statement, on each reachable row, makes a transition of the table for its event, and all of them occur."""
    table = {
        (before, event, after)
        for before, events in TRANSITIONS.items()
        for event, following in events.items()
        for after in following
    }
    table |= {(state, statement, state) for state in JobState for statement in WITHOUT_EVENT}
    observed = await _observe(sql)
    assert [] == _arrows(observed - table), "not in the table"
    assert [] == _arrows(table - observed), "not made by any statement"


def _arrows(transitions: set[tuple[JobState, str, JobState]]) -> list[str]:
    return [f"{before} -- {event} -> {after}" for before, event, after in sorted(transitions)]


async def test_every_statement_that_writes_jobs_is_run(sql: asyncpg.Connection) -> None:
    """STATEMENTS has every query and every function of the database that writes jobs or polling."""
    files = [file for file in (queries.folder() / "queries").iterdir() if file.name.endswith(".sql")]
    found = {file.name.removesuffix(".sql") for file in files if _writes_jobs(file.read_text(encoding="utf-8"))}
    functions = await sql.fetch(
        """select proname, pg_get_functiondef(oid) as text from pg_proc
        where pronamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)"""
    )
    found |= {row["proname"] for row in functions if _writes_jobs(row["text"])}
    assert set(STATEMENTS) == found


def _writes_jobs(text: str) -> bool:
    """Return whether SQL writes the table jobs or polling, however it is formatted."""
    code = re.sub(r"--.*", "", re.sub(r"/\*.*?\*/", " ", text.replace('"', ""), flags=re.DOTALL))
    verb = r"(update|insert\s+into|delete\s+from|merge\s+into|truncate(\s+table)?)(\s+only)?"
    return re.search(rf"\b{verb}\s+(\w+\s*\.\s*)?(jobs|polling)\b", code, re.IGNORECASE) is not None
