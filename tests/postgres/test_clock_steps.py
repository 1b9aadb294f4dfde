"""The database's clock is set between any two statements. Instead of it, the times in the tables are moved."""

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

import asyncpg
import pytest

from checkpointd.domain.attribution import SourceState, Verdict
from checkpointd.domain.event_list import EventListLease
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease, evaluate
from checkpointd.postgres import connection, event_lists, job_lists, queries
from checkpointd.postgres.event_lists import EndedPass
from checkpointd.postgres.job_lists import JobListLease
from checkpointd.postgres.rows import RecordRow, RejectRow, StatusRow, columns
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Capacity, Store
from support.harness import CADENCE, until_true
from support.lists import raw_listing

LONGEST_GAP = 600
"""Seconds. Pauses, leases, poll gaps and the back-off of the scenario are all shorter."""

STATUSES = ("succeeded", "running")
"""The new statuses of two jobs: one that has ended, and one that goes on."""

Step = Callable[[], Awaitable[object]]

_numbers = count(1)


class Scenario:
    """A source and its jobs, and one statement of each kind that writes a time."""

    def __init__(self, store: Store, key: int, name: str) -> None:
        self._store = store
        self._name = name
        self.key = key
        self.tracked = {f"{name}-{letter}" for letter in "abcd"}
        self._leases: list[Lease] = []
        self._lists: list[JobListLease] = []
        self._event_lists: list[EventListLease] = []
        self.steps: list[Step] = [
            partial(store.track, key, [self._id("a"), self._id("b"), self._id("d")]),
            self._claim_list,
            self._discover,
            self._claim,
            partial(store.charge_source, key, 0.01),
            partial(self._with_jobs, store.resync, "b"),  # it is being polled, and is polled again
            partial(self._save, complete=True),
            self._claim_named,
            partial(self._save, complete=True),  # now some are quiet
            self._save_records,
            self._finish_list,
            self._claim_named,
            partial(self._save, complete=False),
            self._claim_events,
            self._finish_events,
            self._claim_events,
            lambda: event_lists.release(store, self._event_lists),
            partial(event_lists.charge_request, store, key, 30),
            partial(store.charge_source, key, 0.01),
            partial(store.pause_source, key, 30, "throttled"),
            partial(store.pause_source, key, 60, "throttled again"),
            self._claim_list,
            self._finish_list,
            partial(store.fail_source, key, SourceState.FAILING, "HTTP 502"),
            partial(store.accept_sources, [key]),
            partial(store.fetch, queries.WAKE_FAILING_JOBS, [key]),
            partial(self._with_jobs, store.untrack, "d"),
            partial(store.track, key, [self._id("d")]),
            partial(self._with_jobs, store.resync, "a"),
            self._claim_named,
            lambda: store.release(self._leases),
            # These leases are lost.
            partial(self._claim_named, "a"),
            self._claim_events,
            self._claim_list,
        ]

    def _id(self, letter: str) -> str:
        return f"{self._name}-{letter}"

    async def _jobs(self, letters: str) -> list[Job]:
        return await self._store.find_jobs([self._id(letter) for letter in letters])

    async def _with_jobs(self, work: Callable[[list[Job]], Awaitable[object]], letters: str) -> None:
        await work(await self._jobs(letters))

    async def claim_due(self) -> list[Lease]:
        """Claim due jobs of the source, which has a rate limit."""
        return await self._store.claim_due_jobs({self.key: Capacity(20, 20, 0.01)}, 60)

    async def claim_list(self) -> list[JobListLease]:
        """Claim the job list if it is due."""
        return await job_lists.claim(self._store, self.key, 60, 30, due_or_not=False)

    async def claim_events(self) -> list[EventListLease]:
        """Claim the event lists that are due."""
        return await event_lists.claim(self._store, self.key, 20, 60, reads_events=True)

    async def _claim_events(self) -> None:
        self._event_lists = await self.claim_events()

    async def _finish_events(self) -> None:
        for lease in self._event_lists:
            await event_lists.finish(self._store, lease, 300)

    async def _claim(self) -> None:
        self._leases = await self.claim_due()

    async def _claim_list(self) -> None:
        self._lists = await self.claim_list()

    async def _discover(self) -> None:
        (lease,) = self._lists
        await job_lists.discover(self._store, lease, [self._id("c")], 10_000)

    async def _finish_list(self) -> None:
        for lease in self._lists:
            await job_lists.finish(self._store, lease, 30, whole=True, error=None)

    async def _claim_named(self, letters: str = "abcd") -> None:
        self._leases = await self._store.claim_named_jobs(await self._jobs(letters), {self.key: 0.01}, 60)

    async def _save(self, *, complete: bool) -> None:
        failure = None if complete else Failure(ErrorClass.SERVER_ERROR, "HTTP 500")
        pages: list[list[bytes]] = [[]] if complete else []
        raw = raw_listing(*pages, failure=failure)
        polls = [evaluate(lease, raw, CADENCE, lambda _: False, Verdict()) for lease in self._leases]
        if quiet := [poll for poll in polls if poll.quiet]:
            await save_quiet(self._store, quiet)
        if changed := [poll for poll in polls if not poll.quiet]:
            await save_changed(self._store, changed)

    async def _save_records(self) -> None:
        (lease,) = self._lists
        keys = [job.key for job in await self._jobs("bc")]
        records = [RecordRow(key, status, *[None] * 9, "{}") for key, status in zip(keys, STATUSES, strict=True)]
        statuses = [
            StatusRow(row.job, row.status == STATUSES[0], waits=False, old_value="queued", new_value=row.status)
            for row in records
        ]
        arrays = [*columns(RecordRow, records), *columns(StatusRow, statuses), *columns(RejectRow, [])]
        await self._store.fetch(queries.SAVE_JOB_RECORDS, lease.source, lease.lease_token, 0, *arrays)


async def _move_times(sql: asyncpg.Connection, seconds: float) -> None:
    """Move all times in the tables of the schedule. Back means that so much time has passed."""
    tables = await sql.fetch("""
        select table_name as name, string_agg(format('%1$I = %1$I + $1', column_name), ', ') as assignments
        from information_schema.columns where table_schema = 'checkpointd' and data_type = 'timestamp with time zone'
        and table_name in ('polling', 'sources', 'jobs', 'event_lists') group by table_name""")
    for table in tables:
        assignments = table["assignments"].replace("$1", f"interval '{seconds} s'")
        await sql.execute(f"update checkpointd.{table['name']} set {assignments}")


async def _play(store: Store, sql: asyncpg.Connection, ahead: float, start: int, end: int) -> None:
    """Play a scenario, with a clock that is ahead by so many seconds from one statement until before another one."""
    name = f"step-{next(_numbers)}"
    key = (await store.register_sources({name: "openai"}))[name]
    scenario = Scenario(store, key, name)
    for number, step in enumerate(scenario.steps):
        if number == start:
            await _move_times(sql, -ahead)
        await step()
        if number == end - 1:
            await _move_times(sql, ahead)
    await _move_times(sql, -LONGEST_GAP)
    where = f"{ahead:+} s from statement {start} until {end}"
    assert await event_lists.charge_request(store, key, 0.01), where
    assert scenario.tracked == {lease.id for lease in await scenario.claim_due()}, where
    assert [key] == [lease.source for lease in await scenario.claim_list()], where
    assert scenario.tracked == {lease.id for lease in await scenario.claim_events()}, where


@pytest.mark.parametrize("ahead", [3600, 30, 30 * 86400, -3600, -30 * 86400])
@pytest.mark.fast_cases(1)
async def test_no_step_of_the_clock_delays_work(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Wherever the clock was wrong, during one statement or from the first, all is due within its gap afterwards."""
    monkeypatch.setattr(connection, "LOCK_RETRY_DELAYS", ())  # no row is locked here
    number_of_steps = len(Scenario(store, 0, "").steps)
    for number in range(number_of_steps):
        await _play(store, sql, ahead, number, number + 1)
        if number % 8 == 7:
            await _play(store, sql, ahead, 0, number + 1)


async def test_no_step_makes_a_wrong_decision(store: Store, sql: asyncpg.Connection) -> None:
    """A claim corrects times in the future: the end, the failures, arrivals and the last complete job list."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.track(key, ["ftjob-1"])
    await sql.execute("""
        update checkpointd.polling set settling_since = 'tomorrow', failing_since = 'tomorrow',
          last_change_at = 'tomorrow', newest_step = 1, newest_seen_at = 'tomorrow', listed_at = 'tomorrow',
          error_class = 'missing', failures = 1;
        update checkpointd.jobs set tracked_at = 'tomorrow';
        update checkpointd.sources set job_list_complete_from = 'tomorrow', job_list_complete_at = 'tomorrow',
          job_list_cursor = 'ftjob-1', job_list_pass_at = 'tomorrow'""")
    (lease,) = await store.claim_due_jobs({key: Capacity(1, 1, None)}, 60)
    times = {lease.settling_since, lease.failing_since, lease.last_change_at, lease.newest_seen_at, lease.tracked_at}
    assert {lease.claimed_at} == times
    (job_list,) = await job_lists.claim(store, key, 60, 30, due_or_not=False)
    stored = """
        select last_attempt_at in (settling_since, failing_since, last_change_at, newest_seen_at, listed_at)
          and greatest(settling_since, failing_since, last_change_at, newest_seen_at, listed_at) = last_attempt_at
          and job_list_complete_from < now() and job_list_complete_at < now()
        from checkpointd.polling cross join checkpointd.sources"""
    await until_true(sql, stored, seconds=1)
    await job_lists.finish(store, job_list, 30, whole=True, error=None)
    await until_true(sql, stored, seconds=1)
    await sql.execute("""
        update checkpointd.polling set error_class = null;
        insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps_at)
        select job, 0, 'yesterday', 'yesterday', 'tomorrow' from checkpointd.polling""")
    assert await event_lists.claim(store, key, 1, 60, reads_events=True)
    assert await sql.fetchval("select steps_at = attempt_at from checkpointd.event_lists")


async def test_no_step_makes_an_event_list_due_again_and_again(store: Store, sql: asyncpg.Connection) -> None:
    """If the clock was set back after the end or the seal of a job, its events are not read at each look for that."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.track(key, ["ftjob-1"])

    async def claim() -> list[EventListLease]:
        return await event_lists.claim(store, key, 16, 60, reads_events=True)

    async def read() -> None:
        (lease,) = await claim()
        await event_lists.finish(store, lease, 300, ended=EndedPass(["ftevent-1"], is_complete=True, digest=b"x"))

    await read()
    for ended, sealed in (("'tomorrow'", "null"), ("'yesterday'", "'tomorrow'"), ("'tomorrow'", "'tomorrow'")):
        await sql.execute(f"update checkpointd.polling set settling_since = {ended}, sealed_at = {sealed}")
        assert [] == await claim(), (ended, sealed)
    await sql.execute("update checkpointd.event_lists set due_at = attempt_at")
    assert [] == await claim(), "it is sealed"
    await sql.execute("update checkpointd.polling set settling_since = 'today', sealed_at = now()")
    await read()
    assert [] == await claim(), "it was read once since it was sealed"


async def test_nothing_looks_fresh_in_the_future(store: Store, sql: asyncpg.Connection) -> None:
    """A complete listing whose time lies in the future makes a job stale, and its lag counts from the tracking."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.track(key, ["ftjob-1"])
    state = "select is_stale, lag_seconds > 3590 from fine_tuning.freshness"
    await sql.execute("update checkpointd.polling set last_complete_at = now(), gap_s = 15")
    assert (False, False) == tuple(await sql.fetchrow(state) or ())
    await sql.execute("update checkpointd.jobs set tracked_at = now() - interval '1 hour'")
    await sql.execute("update checkpointd.polling set last_complete_at = now() + interval '1 hour'")
    assert (True, True) == tuple(await sql.fetchrow(state) or ())
    await sql.execute("update checkpointd.jobs set tracked_at = now() + interval '1 hour'")
    assert (True, None) == tuple(await sql.fetchrow(state) or ())
