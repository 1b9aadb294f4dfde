"""Leases: only the database's clock counts, a save counts once, and a save that was lost is not treated as done."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import pytest

from checkpointd.domain.attribution import OWN_FAILURES
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease, PollResult, SavedPoll, evaluate
from checkpointd.polling import save_queue
from checkpointd.postgres import queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Capacity, Store, open_store
from support.harness import CADENCE, polling_one, sync, tick, track, until_true
from support.lists import raw_listing
from support.provider import JOB, Provider, body, checkpoint, error, held, page
from support.shifted import SHIFTED_CLOCK, connect_shifted
from support.wire import SAVE, Wire


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_databases_clock_decides(url: str, provider: Provider, sql: asyncpg.Connection, hours: int) -> None:
    """With an hour between the database's clock and ours, leases and due times are right; no job is polled twice."""
    await sql.execute(SHIFTED_CLOCK)
    await sql.execute("update shifted.by set shift = make_interval(hours => $1)", hours)
    lease_left = "select lease_expires_at - shifted.clock_timestamp() from checkpointd.polling"
    gap_left = "select next_poll_at - shifted.clock_timestamp() from checkpointd.polling"
    answer, reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints[JOB] = answer
    async with open_store(lambda: connect_shifted(url)) as store:
        await track(store)
        await sql.execute("update checkpointd.polling set next_poll_at = shifted.clock_timestamp()")
        async with (
            polling_one(store, provider, lease=60) as (poller, _, _),
            polling_one(store, provider, lease=60) as (other, _, _),
        ):
            assert 1 == await poller.tick()
            await reached.wait()
            left = await sql.fetchval(lease_left)
            assert 0 < left.total_seconds() <= 60
            assert 0 == await other.tick()
            go_on.set()
            await poller.idle()
        assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
        gap = await sql.fetchval(gap_left)
        assert 0 < gap.total_seconds() <= 300
        async with polling_one(store, provider) as (poller, _, _):
            assert 0 == await tick(poller)
            await sql.execute("update shifted.by set shift = shift + interval '300 s'")
            assert 1 == await tick(poller)


async def test_a_poll_whose_lease_became_void(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the clock is set back during a poll, its job is claimed again, and only the later poll is saved."""
    answer, _, go_on = held(page([checkpoint(1)]))
    provider.checkpoints[JOB] = answer
    async with polling_one(store, provider) as (poller, source, outcomes):
        await track(store)
        assert 1 == await poller.tick()
        await sql.execute("update checkpointd.polling set last_attempt_at = now() + interval '1 hour'")
        assert 1 == await poller.tick()
        assert 2 == source.claimed
        go_on.set()
        await poller.idle()
        await poller.queue.saved()
        assert 0 == source.claimed
        assert isinstance(outcomes[JOB], SavedPoll)
    assert [(1, "changed")] == [tuple(row) for row in await sql.fetch("select count, outcome from fine_tuning.polls")]


async def test_a_lost_answer_counts_once(
    url: str, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save whose commit is not answered is repeated; checkpoints, changes, rejects and polls still count once."""
    monkeypatch.setattr(save_queue, "RETRY_SECONDS", 0.01)
    bad = {**checkpoint(3), "step_number": "3"}
    async with Wire(url) as wire, open_store(lambda: connect(wire.url)) as store:
        for answer in (
            page([checkpoint(2), checkpoint(1), bad]),
            page([checkpoint(2, train_loss=0.75), bad]),
            error(500),
        ):
            provider.checkpoints[JOB] = answer
            wire.cut(SAVE)
            await sync(store, provider)
    counts = await sql.fetchrow("""
        select (select count(*) from fine_tuning.checkpoints) as checkpoints,
          (select array_agg(kind order by seq) from fine_tuning.changes) as changes,
          (select array_agg(outcome || count order by id) from fine_tuning.polls) as polls,
          (select array_agg(count) from fine_tuning.rejects) as rejects,
          (select consecutive_failures from fine_tuning.freshness) as failures""")
    assert counts is not None
    assert (2, ["new", "new", "changed"], ["changed1", "changed1", "failed1"], [2], 1) == tuple(counts)


async def test_a_lost_answer_to_a_quiet_save(
    url: str, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to any message of a quiet poll may be lost: the poll counts once, or its lease expires."""
    monkeypatch.setattr(save_queue, "RETRY_SECONDS", 0.01)
    quiet_polls = "select quiet_polls from fine_tuning.freshness"
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with Wire(url) as wire, open_store(lambda: connect(wire.url)) as store:
        await sync(store, provider)
        for message in range(1, 9):
            quiet_before = await sql.fetchval(quiet_polls)
            await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
            async with polling_one(store, provider) as (poller, _, _):
                requests_before = provider.asked()
                wire.cut(message)
                await tick(poller)
            wire.mend()
            polled = provider.asked() - requests_before
            assert quiet_before + polled == await sql.fetchval(quiet_polls), message


async def _untrack_during(
    work: Callable[[list[Job]], Awaitable[object]], store: Store, sql: asyncpg.Connection, locked_table: str
) -> object:
    """Untrack the job while `work` waits for locked rows. Returns the result of `work`."""
    await track(store)
    jobs = await store.find_jobs([JOB])
    is_waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with sql.transaction():
        await sql.execute(f"select from checkpointd.{locked_table} for update")
        working = asyncio.ensure_future(work(jobs))
        await until_true(sql, is_waiting, seconds=10)
        await sql.execute("select checkpointd.untrack_jobs($1)", [job.key for job in jobs])
    return await working


async def test_untracked_while_a_claim_waits(store: Store, sql: asyncpg.Connection) -> None:
    """A job that is untracked while a claim of it waits for the rate limit of its source is not polled any more."""

    async def claim(jobs: list[Job]) -> list[Lease]:
        return await store.claim_named_jobs(jobs, {jobs[0].source: 0.1}, 60)

    assert [] == await _untrack_during(claim, store, sql, "sources")
    assert await sql.fetchval("select next_poll_at = 'infinity' from checkpointd.polling")


async def test_untracked_while_a_resync_waits(store: Store, sql: asyncpg.Connection) -> None:
    """A job that is untracked while a resync of it waits for its row is not polled any more."""
    assert 0 == await _untrack_during(store.resync, store, sql, "polling")
    assert await sql.fetchval("select next_poll_at = 'infinity' from checkpointd.polling")


async def _poll_jobs(store: Store, jobs: Sequence[Job], number: int) -> list[PollResult]:
    """Claim jobs, and return a poll of each that found a new checkpoint, changed ones and a reject."""

    def listed(job: str) -> list[bytes]:
        items = [checkpoint(n, job, train_loss=number / 100) for n in range(1, number + 2)]
        return [json.dumps(item).encode() for item in [*items, {"id": "bad"}]]

    leases = await store.claim_named_jobs(jobs, {}, 60)
    return [evaluate(lease, raw_listing(listed(lease.id)), CADENCE, lambda _: False) for lease in leases]


@pytest.mark.parametrize(("warm", "messages"), [(False, 4), (True, 2)])
async def test_a_frozen_save_holds_no_lock(
    warm: bool,
    messages: int,
    url: str,
    store: Store,
    sql: asyncpg.Connection,
) -> None:
    """Between any two messages of a save, no lock is held: neither if they prepare its statements, nor afterwards."""
    ids = [f"{JOB}-{message}" for message in range(1, messages + 1)]
    await track(store, *ids)
    jobs = await store.find_jobs(ids)
    await save_changed(store, await _poll_jobs(store, jobs, 1))
    writing = """
        select pid from pg_stat_activity
        where datname = current_database() and backend_xid is not null and application_name = 'checkpointd'"""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(url)) for _ in ids]
        stores = [await stack.enter_async_context(open_store(partial(connect, wire.url))) for wire in wires]
        for number in (2, 3) if warm else (2,):
            polls = await _poll_jobs(store, jobs, number)
            if number == 2 and warm:
                await asyncio.gather(*(save_changed(one, [poll]) for one, poll in zip(stores, polls, strict=True)))
        saves = []
        for message, (wire, one, poll) in enumerate(zip(wires, stores, polls, strict=True), start=1):
            async with one.connection():
                wire.freeze(message)
            saves.append(asyncio.ensure_future(save_changed(one, [poll])))
            await asyncio.wait_for(wire.frozen.wait(), 30)
            assert [] == await sql.fetch(writing), message
        for save in saves:
            save.cancel()
        async with asyncio.timeout(5):  # the daemon does not wait for a server that hangs: a statement may take 15 s
            await asyncio.gather(*saves, return_exceptions=True)
        again = await save_changed(store, polls)
    assert ids == sorted(poll.result.lease.id for poll in again)


async def test_a_lost_save_is_not_remembered(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """What a daemon listed but could not save is stored by its next poll, even if that listing is the same."""
    answer, reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints[JOB] = [answer, page([checkpoint(1)])]
    await track(store)
    async with polling_one(store, provider) as (poller, _, _):
        await poller.tick()
        await reached.wait()
        await sql.execute("update checkpointd.polling set lease_token = lease_token + 1")
        go_on.set()
        await poller.idle()
        await poller.queue.saved()
        assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
        await sql.execute("update checkpointd.polling set lease_expires_at = null, next_poll_at = now()")
        assert 1 == await tick(poller)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")


async def test_items_listed_twice_are_one_checkpoint(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint that is twice on a page, and once more on the next page, is stored once, with its last values."""
    text = json.dumps(checkpoint(1, train_loss=0.75))
    first = body(f'{{"object": "list", "data": [{text}, {text}, {json.dumps(checkpoint(2))}], "has_more": true}}')
    provider.checkpoints[JOB] = [first, page([checkpoint(1, train_loss=0.5)])]
    await sync(store, provider)
    rows = await sql.fetch("select step_number, train_loss from fine_tuning.checkpoints order by 1")
    assert [(1, 0.5), (2, 0.5)] == [tuple(row) for row in rows]
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes")


async def test_two_pollers_share_the_jobs(store: Store, provider: Provider) -> None:
    """Two pollers at the same time poll each due job once."""
    jobs = [f"ftjob-{n}" for n in range(60)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(1, job=name)])
    await track(store, *jobs)

    async def poll_all() -> int:
        async with polling_one(store, provider) as (poller, _, outcomes):
            while await tick(poller):
                pass
        return len(outcomes)

    assert 60 == sum(await asyncio.gather(poll_all(), poll_all()))
    assert [1] * 60 == [provider.asked(name) for name in jobs]


@pytest.mark.parametrize("named", [False, True])
async def test_slow_claim_takes_nothing_twice(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """A claim that was delayed since before another claim takes neither its jobs nor those that it has polled since."""
    await track(store)
    (job,) = await store.find_jobs([JOB])
    capacities = {job.source: Capacity(8, 2, None)}
    (lease,) = await store.claim_due_jobs(capacities, 60)
    started_before = "clock_timestamp() - interval '9 s' as now"
    for name in ("CLAIM_DUE_JOBS", "CLAIM_NAMED_JOBS"):
        delayed = getattr(queries, name).replace("clock_timestamp() as now", started_before)
        monkeypatch.setattr(queries, name, delayed)
    assert [] == await (store.claim_named_jobs([job], {}, 60) if named else store.claim_due_jobs(capacities, 60))
    await sql.execute("update checkpointd.polling set lease_expires_at = null, next_poll_at = now() + interval '9 s'")
    assert [] == await store.claim_due_jobs(capacities, 60)
    assert lease.lease_token == await sql.fetchval("select lease_token from checkpointd.polling")


async def test_two_polls_of_one_job_in_one_save(store: Store, sql: asyncpg.Connection) -> None:
    """A process suspended past its lease may save two polls of a job at once: only that of the current lease counts."""
    await track(store)
    (job,) = await store.find_jobs([JOB])
    capacities = {job.source: Capacity(8, 2, None)}

    async def poll_twice(old_step: int, new_step: int) -> list[PollResult]:
        polls = []
        for step in (old_step, new_step):
            await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
            (lease,) = await store.claim_due_jobs(capacities, 60)
            listing = raw_listing([json.dumps(checkpoint(step)).encode()])
            polls.append(evaluate(lease, listing, CADENCE, lambda _: False))
        return polls

    old, new = await poll_twice(2, 1)
    assert [new] == [saved.result for saved in await save_changed(store, [new, old])]
    assert ["ftckpt_0001"] == [row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")]
    old, new = await poll_twice(1, 1)
    assert (True, True) == (old.quiet, new.quiet)
    assert [new] == [saved.result for saved in await save_quiet(store, [new, old])]


async def test_restored_database_repeats_no_lease(store: Store, sql: asyncpg.Connection) -> None:
    """A poll from before a restore is not saved under another job that has the same private key and as many claims."""
    capacities = {(await store.register_sources({"test": "openai"}))["test"]: Capacity(8, 2, None)}
    polls = []
    for name in ("ftjob-lost", "ftjob-other"):
        await sql.execute("truncate checkpointd.jobs, checkpointd.polling restart identity cascade")
        await track(store, name)
        (lease,) = await store.claim_due_jobs(capacities, 60)
        listing = raw_listing([json.dumps(checkpoint(1, job=name)).encode()])
        polls.append(evaluate(lease, listing, CADENCE, lambda _: False))
    lost, current = polls
    assert lost.lease.job == current.lease.job
    assert [] == await save_changed(store, [lost])
    assert 1 == len(await save_changed(store, [current]))


async def test_locked_job_delays_no_other(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If another session locks the row of a job, that job's poll is not saved; all others are."""
    jobs = [f"ftjob-{n}" for n in range(8)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(1, job=name)])
    for _ in range(2):  # at first the polls find new checkpoints, then they are quiet
        await sync(store, provider, *jobs)
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        async with polling_one(store, provider) as (poller, _, outcomes):
            assert 8 == await poller.tick()
            async with sql.transaction():
                await sql.execute("select from checkpointd.polling limit 1 for update")
                await poller.idle()
                await poller.queue.saved()
        assert 7 == sum(isinstance(outcome, SavedPoll) for outcome in outcomes.values())
        await sql.execute("update checkpointd.polling set lease_expires_at = null")


async def test_clock_set_back(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After the database's clock went back by a month, every job is due at once, leased or not."""
    await track(store, JOB, "ftjob-2")
    await sql.execute("""
        update checkpointd.polling
        set last_attempt_at = now() + interval '30 d', next_poll_at = now() + interval '30 d',
          lease_expires_at = now() + interval '30 d 1 min'""")
    async with polling_one(store, provider) as (poller, _, _):
        assert 2 == await poller.tick()


async def test_untracked_during_the_sealing_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that is untracked during the poll that would have sealed it is not sealed, and no resync wakes it."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await sql.execute("update checkpointd.jobs set status = 'succeeded'")
    await sql.execute("update checkpointd.polling set settling_since = now() - interval '1 year', equal_listings = 2")
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    polling = asyncio.create_task(sync(store, provider))
    await reached.wait()
    jobs = await store.find_jobs([JOB])
    await store.untrack(jobs)
    go_on.set()
    await polling
    state = "select quiet_polls, sealed_at, next_poll_at = 'infinity' from checkpointd.polling"
    assert (1, None, True) == tuple(await sql.fetchrow(state) or ())
    assert 0 == await store.resync(jobs)


async def test_failures_after_a_partial_listing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A run of equal failures has a row of its own, also if a listing broke off in the same way before it."""
    provider.checkpoints[JOB] = [page([checkpoint(1)], has_more=True), error(500)]
    await sync(store, provider)
    provider.checkpoints[JOB] = error(500)
    for _ in range(3):
        await sync(store, provider)
    rows = await sql.fetch("select outcome, error_class, count, items, new from fine_tuning.polls order by id")
    assert [("partial", "server_error", 1, 1, 1), ("failed", "server_error", 3, 0, 0)] == list(map(tuple, rows))


async def test_leases_that_are_lost_again(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The second lost lease in a row, and each further one, counts as a failed poll, until a poll is saved.

    The job is then not polled at once, and its gap grows.
    """
    await track(store)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    capacities = {(await store.register_sources({"test": "openai"}))["test"]: Capacity(8, 2, None)}

    async def claim_after_a_loss() -> tuple[bool, int, str | None, float]:
        """Let the present lease expire, and claim the job. Returns what became of it, and when it is due."""
        await sql.execute("update checkpointd.polling set gap_s = 10, lease_expires_at = now() - interval '1 s'")
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        (lease,) = await store.claim_due_jobs(capacities, 60)
        row = await sql.fetchrow(
            """select f.consecutive_failures, f.error_class, extract(epoch from f.next_poll_at - now())::float8
            from fine_tuning.freshness f"""
        )
        assert lease.is_lost == (await sql.fetchval("select lease_expires_at is null from checkpointd.polling"))
        return lease.is_lost, *row

    (lease,) = await store.claim_due_jobs(capacities, 60)
    assert not lease.is_lost
    assert (False, 0, None) == (await claim_after_a_loss())[:3]
    *lost, due = await claim_after_a_loss()
    assert [True, 1, "lease_lost"] == lost
    assert 15 < due < 20
    assert [] == await store.claim_due_jobs(capacities, 60)
    *lost, due = await claim_after_a_loss()
    assert [True, 2, "lease_lost"] == lost
    assert 35 < due < 40
    await sql.execute("update checkpointd.polling set next_poll_at = now()")
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await tick(poller)
        await poller.queue.saved()
    assert (0, None) == tuple(await sql.fetchrow("select failures, error_class from checkpointd.polling"))
    await sql.execute("update checkpointd.polling set next_poll_at = now()")
    await store.claim_due_jobs(capacities, 60)
    assert (False, 0, None) == (await claim_after_a_loss())[:3]


async def test_a_claim_writes_no_index(store: Store, sql: asyncpg.Connection) -> None:
    """A claim, also one that finds lost leases, updates rows in their pages (HOT)."""
    await track(store, *(f"ftjob-{n}" for n in range(8)))
    key = await sql.fetchval("select key from checkpointd.sources")
    for _ in range(3):
        async with sql.transaction():
            await sql.execute("update checkpointd.polling set lease_expires_at = now() - interval '1 s'")
            claimed = await sql.fetch(
                queries.CLAIM_DUE_JOBS, [key], [8], [8], [None], 60.0, ["overdue"], OWN_FAILURES, 300.0
            )
            assert 8 == len(claimed)
            updates = [
                await sql.fetchval(f"select pg_stat_get_xact_tuples_{kind}('checkpointd.polling'::regclass)")
                for kind in ("updated", "hot_updated")
            ]
            assert updates[0] == updates[1] >= 16
            await sql.execute("update checkpointd.polling set next_poll_at = now()")
