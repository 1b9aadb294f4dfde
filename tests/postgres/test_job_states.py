"""Every transition of the table of job states happens through the store.

A case runs the steps that lead a job to a state, then the event, and reads the state from `fine_tuning.jobs`. A state
can be reached in several ways, which differ in what it hides. One of them must lead to the expected next state.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import asyncpg
import pytest
import pytest_asyncio
from msgspec.structs import replace

from checkpointd.domain.cadence import GONE_AFTER, GONE_FAILURES, CadenceSettings
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import Job, read_jobs
from checkpointd.domain.job_state import TRANSITIONS, JobEvent, JobState
from checkpointd.domain.poll import Lease, evaluate
from checkpointd.postgres import job_lists
from checkpointd.postgres.connection import connect
from checkpointd.postgres.job_lists import JobListLease
from checkpointd.postgres.job_records import save_job_records
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Store, open_store
from support.lists import raw_listing
from support.provider import checkpoint, job

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one database for all cases

YEAR = 365 * 86400.0
RUNS = CadenceSettings(15, 300, settle=YEAR, assume_ended=YEAR)
HAS_ENDED = RUNS._replace(assume_ended=0)
HAS_SETTLED = HAS_ENDED._replace(settle=0)
"""Settings by which a job of unknown status runs, has ended, and has ended so long ago that it may be sealed."""

CLAIMED = "claimed"
"""A step: a poll starts. The next event of a poll is its end."""
QUIET_TWICE = "quiet_twice"
"""A step: two quiet polls after the settle time, so that a third one seals."""
BROKEN_OFF = "failed with changes"
SOURCE_BROKEN_OFF = "source failed with changes"
"""Steps: the events FAILED and SOURCE_FAILED with an incomplete listing that has a new checkpoint."""

VARIANTS = {JobEvent.FAILED: BROKEN_OFF, JobEvent.SOURCE_FAILED: SOURCE_BROKEN_OFF}
STATUSES = {JobEvent.RUNNING: ("running", "queued"), JobEvent.ENDED: ("succeeded", "failed")}
FAILURES = {
    JobEvent.NOT_FOUND: ErrorClass.MISSING,
    JobEvent.NOT_FOUND_FOR_LONG: ErrorClass.MISSING,
    JobEvent.FORBIDDEN: ErrorClass.FORBIDDEN,
    JobEvent.FAILED: ErrorClass.NETWORK,
    BROKEN_OFF: ErrorClass.NETWORK,
    JobEvent.SOURCE_FAILED: ErrorClass.THROTTLED,
    SOURCE_BROKEN_OFF: ErrorClass.THROTTLED,
}
SETTINGS = {JobEvent.QUIET_ENDED: HAS_ENDED, QUIET_TWICE: HAS_SETTLED, JobEvent.SETTLED: HAS_SETTLED}

Way = Sequence[str]
SEAL: Way = (QUIET_TWICE, JobEvent.SETTLED)
FAILING: dict[JobState, Way] = {
    JobState.MISSING: (JobEvent.NOT_FOUND,),
    JobState.GONE: (JobEvent.NOT_FOUND, JobEvent.NOT_FOUND_FOR_LONG),
    JobState.FORBIDDEN: (JobEvent.FORBIDDEN,),
}
WAYS: dict[JobState, Sequence[Way]] = {
    JobState.ACTIVE: ((),),
    JobState.SETTLING: ((JobEvent.QUIET_ENDED,), (CLAIMED, JobEvent.ENDED), (QUIET_TWICE,)),
    JobState.SEALED: (SEAL, *((*SEAL, *failing) for failing in FAILING.values()), (*SEAL, BROKEN_OFF)),
    **{
        state: (failing, (*failing, CLAIMED, JobEvent.ENDED), (QUIET_TWICE, *failing))
        for state, failing in FAILING.items()
    },
    JobState.UNTRACKED: tuple(
        (*earlier, CLAIMED, JobEvent.UNTRACKED) for earlier in ((), *FAILING.values(), (QUIET_TWICE,))
    ),
}
"""The ways to each state, from a job that is active and was listed."""


class NotPossibleError(Exception):
    """The event cannot happen to the job as it is."""


class Database(NamedTuple):
    """The database of all cases, with a lease on the job list of its one source."""

    store: Store
    sql: asyncpg.Connection
    source: int
    job_list: JobListLease
    listed: Iterator[Job]
    """Active jobs whose complete listing was saved. It had no checkpoint."""
    observed: dict[tuple[JobState, JobEvent], set[JobState]]
    """State and event → the next states that were seen."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str, migrated: str) -> AsyncIterator[Database]:
    """Yield a migrated database."""
    admin = await asyncpg.connect(postgres.format("postgres"))
    await admin.execute(f"create database job_states template {migrated}")
    url = postgres.format("job_states")
    sql = await asyncpg.connect(url)
    async with open_store(lambda: connect(url)) as store:
        (source,) = (await store.register_sources({"test": "openai"})).values()
        (job_list,) = await job_lists.claim(store, source, 3600, 30, due_or_not=True)
        ids = [f"ftjob-{number}" for number in range(400)]
        await store.track(source, ids)
        jobs = await store.find_jobs(ids)
        leases = await store.claim_named_jobs(jobs, {}, 60)
        await save_changed(store, [evaluate(lease, raw_listing([]), RUNS, lambda _: False) for lease in leases])
        yield Database(store, sql, source, job_list, iter(jobs), {})
    await sql.close()
    await admin.execute("drop database job_states with (force)")
    await admin.close()


class TrackedJob:
    """A job in the database, and what happens to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.job = next(database.listed)
        self._lease: Lease | None = None
        self._status = ""
        self._count = 0

    async def state(self) -> JobState:
        """Read the state."""
        phase = await self.database.sql.fetchval("select phase from fine_tuning.jobs where id = $1", self.job.id)
        return JobState(phase)

    async def happen(self, step: str) -> None:
        """Make an event or another step happen. Raises NotPossibleError."""
        store = self.database.store
        if step == JobEvent.TRACKED:
            await store.track(self.database.source, [self.job.id])
        elif step == JobEvent.UNTRACKED:
            await store.untrack([self.job])
        elif step == JobEvent.RESYNCED:
            await store.resync([self.job])
        elif step in STATUSES:
            # A status is an event only if it differs from the one before.
            self._status = next(status for status in STATUSES[JobEvent(step)] if status != self._status)
            records = read_jobs([json.dumps(job(self.job.id, self._status)).encode()])
            await save_job_records(store, self.database.job_list, records)
        elif step == JobEvent.CLOCK_SET_BACK:
            ahead = "update checkpointd.polling set sealed_at = sealed_at + interval '1 hour' where job = $1"
            await self.database.sql.execute(ahead, self.job.key)
            await store.reopen_sealed_jobs()
        elif step == JobEvent.SHOWN:
            await job_lists.record_listed(store, self.database.job_list, [self.job.id])
        elif step == CLAIMED:
            self._lease = await self._claim()
        else:
            for _ in range(2 if step == QUIET_TWICE else 1):
                await self._poll(step)

    async def _claim(self) -> Lease:
        leases = await self.database.store.claim_named_jobs([self.job], {}, 60)
        if not leases:
            raise NotPossibleError
        return leases[0]

    async def _poll(self, step: str) -> None:
        """End the poll that has started, or a new one, as the step requires."""
        lease, self._lease = self._lease or await self._claim(), None
        grows = step in {JobEvent.CHANGED, *VARIANTS.values()}
        self._count += grows
        items = [json.dumps(checkpoint(number, self.job.id)).encode() for number in range(self._count, 0, -1)]
        failure = Failure(FAILURES[step], "") if step in FAILURES else None
        if step == JobEvent.LISTED:
            lease = replace(lease, digest=None)  # so that an equal listing is compared in full
        if step == JobEvent.NOT_FOUND_FOR_LONG:
            lease = replace(lease, equal_failures=GONE_FAILURES, failing_since=lease.claimed_at - GONE_AFTER)
        raw = raw_listing(*([items] if grows or failure is None else []), failure=failure)
        poll = evaluate(lease, raw, SETTINGS.get(step, RUNS), lambda _: False)
        quiet = step in {JobEvent.QUIET, *SETTINGS}
        if (poll.quiet, poll.gone) != (quiet, step == JobEvent.NOT_FOUND_FOR_LONG):
            raise NotPossibleError
        save = save_quiet if quiet else save_changed
        assert 1 == len(await save(self.database.store, [poll]))


ENTRIES = [
    (before, event, after)
    for before, events in TRANSITIONS.items()
    for event, following in events.items()
    for after in sorted(following)
]


async def _observe(database: Database, before: JobState, event: JobEvent) -> set[JobState]:
    """Return the states that follow the event, after the ways to this state until all that are expected were seen."""
    found = database.observed.setdefault((before, event), set())
    ways = [way for way in WAYS[before] if event is not JobEvent.SETTLED or QUIET_TWICE in way]
    for way in ways:
        for step in dict.fromkeys((event, VARIANTS.get(event, event))):
            if found >= TRANSITIONS[before][event]:
                return found
            tracked = TrackedJob(database)
            for earlier in way:
                await tracked.happen(earlier)
            assert before == await tracked.state(), way
            with suppress(NotPossibleError):
                await tracked.happen(step)
                found.add(await tracked.state())
    return found


@pytest.mark.parametrize(("before", "event", "after"), ENTRIES, ids=str)
async def test_transition(database: Database, before: JobState, event: JobEvent, after: JobState) -> None:
    """In this state, the event can lead to the next state of the table, and to no state that the table lacks."""
    found = await _observe(database, before, event)
    assert after in found
    assert found <= TRANSITIONS[before][event]
