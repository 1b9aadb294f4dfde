"""A poll, from the claim to what readers see: nothing lost, nothing erased, no false success, quiet is free."""

import asyncio
import json
import math
import time
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from checkpointd.domain.failure import Failure
from checkpointd.domain.listing import RawListing
from checkpointd.domain.poll import PollResult, SavedPoll, evaluate
from checkpointd.polling import setup
from checkpointd.postgres import queries
from checkpointd.postgres.save import save_changed, save_quiet
from checkpointd.postgres.store import Capacity, Store
from support.harness import BOUNDS, polling_one, read_job_list, row_versions, sync, tick, track
from support.provider import JOB, Provider, body, checkpoint, error, held, job, page, paged


async def _freshness(sql: asyncpg.Connection, job_id: str = JOB) -> asyncpg.Record:
    row = await sql.fetchrow("select * from fine_tuning.freshness where fine_tuning_job_id = $1", job_id)
    assert row is not None
    return row


async def _kinds(sql: asyncpg.Connection) -> list[tuple[str, str | None, str | None, str | None]]:
    rows = await sql.fetch("select kind, field, old_value, new_value from fine_tuning.changes order by seq")
    return [tuple(row) for row in rows]


async def test_all_pages_are_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Twenty-five checkpoints in pages of four are all stored, each with one `new` change."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(25, 0, -1)])
    await sync(store, provider, page_size=4)
    assert [*range(1, 26)] == [
        r["step_number"] for r in await sql.fetch("select step_number from fine_tuning.checkpoints order by 1")
    ]
    assert {("new", None, None, None)} == set(await _kinds(sql))
    assert 25 == await sql.fetchval("select count(*) from fine_tuning.changes")
    assert 7 == provider.asked()


async def test_quiet_polls_write_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Forty polls that find nothing new write no row but the job's own in polling."""
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    await sync(store, provider)
    before = await row_versions(sql)
    for _ in range(40):
        await sync(store, provider)
    assert before == await row_versions(sql)
    assert 40 == (await _freshness(sql))["quiet_polls"]


async def test_late_metric_is_found_after_quiet_polls(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A metric that comes late to the oldest checkpoint of the last page is found, forty quiet polls later too."""
    items = [checkpoint(n) for n in range(9, 0, -1)]
    provider.checkpoints[JOB] = paged(items)
    for _ in range(41):
        await sync(store, provider, page_size=4)
    items[-1] = checkpoint(1, full_valid_loss=0.5)
    await sync(store, provider, page_size=4)
    assert ("changed", "full_valid_loss", None, "0.5") == (await _kinds(sql))[-1]
    assert 0.5 == await sql.fetchval("select full_valid_loss from fine_tuning.checkpoints where step_number = 1")


async def test_null_erases_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A null after a value adds one `regressed` and keeps the value; staying null adds nothing; back is a change."""
    for valid_loss, known in ((0.5, 0.5), (None, 0.5), (None, 0.5), (0.5, 0.5), (0.7, 0.7), (None, 0.7)):
        provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=valid_loss), checkpoint(2)])
        await sync(store, provider)
        assert known == await sql.fetchval("select valid_loss from fine_tuning.checkpoints where step_number = 1")
        await store.resync(await store.find_jobs([JOB]))
    assert [
        ("regressed", "valid_loss", "0.5", None),
        ("changed", "valid_loss", None, "0.5"),
        ("changed", "valid_loss", "0.5", "0.7"),
        ("regressed", "valid_loss", "0.7", None),
    ] == [change for change in await _kinds(sql) if change[0] != "new"]


async def test_there_and_back_is_two_changes(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A value that goes from A to B and back to A leaves two changes."""
    for loss in (0.5, 0.6, 0.5):
        provider.checkpoints[JOB] = page([checkpoint(1, train_loss=loss)])
        await sync(store, provider)
    assert [("0.5", "0.6"), ("0.6", "0.5")] == [
        (old, new) for kind, _, old, new in await _kinds(sql) if kind == "changed"
    ]


async def test_missing_after_two_listings(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint is missing after two complete listings without it, is kept, and comes back."""
    missing = "select array_agg(step_number) from fine_tuning.checkpoints where missing_since is not null"
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    await sync(store, provider)
    provider.checkpoints[JOB] = page([checkpoint(2)])
    await sync(store, provider)
    assert await sql.fetchval(missing) is None
    await sync(store, provider)
    assert [1] == await sql.fetchval(missing)
    await sync(store, provider)
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    await sync(store, provider)
    assert await sql.fetchval(missing) is None
    assert ["new", "new", "missing", "returned"] == [kind for kind, *_ in await _kinds(sql)]


async def test_broken_listing_stores_but_is_no_success(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A listing whose second page fails stores the first, marks nothing missing, and is not complete."""
    items = [checkpoint(n) for n in range(6, 0, -1)]
    provider.checkpoints[JOB] = paged(items)
    await sync(store, provider, page_size=3)
    before = await _freshness(sql)
    fresh = [checkpoint(7), *items[:2]]
    for _ in range(3):
        provider.checkpoints[JOB] = [page(fresh, has_more=True), error(500)]
        (result,) = (await sync(store, provider, page_size=3)).values()
        assert isinstance(result, SavedPoll)
        assert not result.result.complete
    after = await _freshness(sql)
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where missing_since is null")
    assert (before["last_complete_at"], before["last_success_at"]) == (
        after["last_complete_at"],
        after["last_success_at"],
    )
    assert ("server_error", 3) == (after["error_class"], after["consecutive_failures"])
    rows = await sql.fetch("select outcome, error_class, count, new from fine_tuning.polls order by id")
    assert [("changed", None, 1, 6), ("partial", "server_error", 3, 1)] == [tuple(row) for row in rows]


async def test_recovery_is_seen(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After a failure the next complete listing clears the error, and the run of failures stays in polls."""
    provider.checkpoints[JOB] = error(500)
    await sync(store, provider)
    await sync(store, provider)
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    row = await _freshness(sql)
    assert (None, None, 0) == (row["error_class"], row["last_error"], row["consecutive_failures"])
    assert row["last_success_at"] is not None
    assert [("failed", 2)] == [tuple(r) for r in await sql.fetch("select outcome, count from fine_tuning.polls")]


async def test_bad_items_go_to_rejects(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A bad item is kept with its bytes and reason, the good ones of its page are stored, and it is no success."""
    bad = [
        {**checkpoint(3), "step_number": "3"},
        {**checkpoint(4), "fine_tuning_job_id": "ftjob-other"},
        {**checkpoint(5), "fine_tuned_model_checkpoint": "a\0b"},
        {**checkpoint(6), "id": "has blanks"},
        {**checkpoint(7), "created_at": 2**63},
        "no object",
    ]
    provider.checkpoints[JOB] = page([checkpoint(2), *bad, checkpoint(1)])
    for _ in range(2):
        await sync(store, provider)
    assert [1, 2] == [r[0] for r in await sql.fetch("select step_number from fine_tuning.checkpoints order by 1")]
    rows = await sql.fetch("select reason, raw, count from fine_tuning.rejects")
    assert {json.dumps(item) for item in bad} == {row["raw"].decode() for row in rows}
    assert {1} == {row["count"] for row in rows}
    row = await _freshness(sql)
    assert (None, 2) == (row["last_success_at"], await sql.fetchval("select count(*) from fine_tuning.checkpoints"))
    assert row["last_complete_at"] is not None


async def test_not_finite_is_null_and_noted(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """NaN, Infinity and 1e400 cost neither the page nor the item: the value is null, the bytes are in rejects."""
    texts = [json.dumps(checkpoint(n, valid_loss=value)) for n, value in ((1, math.nan), (2, math.inf), (3, 12345.5))]
    listed = ",".join(texts).replace("12345.5", "1e400")
    provider.checkpoints[JOB] = body('{"object":"list","data":[' + listed + '],"has_more":false}')
    await sync(store, provider)
    rows = await sql.fetch("select train_loss, valid_loss from fine_tuning.checkpoints order by step_number")
    assert [(1, None), (1 / 2, None), (1 / 3, None)] == [tuple(row) for row in rows]
    assert 3 == await sql.fetchval("select count(*) from fine_tuning.rejects where reason ~ 'valid_loss'")


async def test_extra_metrics(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Any other numeric metric is kept, its change is a change, and its null erases nothing."""
    for reward in (0.25, None, 0.75):
        provider.checkpoints[JOB] = page([checkpoint(1, train_mean_reward=reward, odd="text")])  # type: ignore[arg-type]
        await sync(store, provider)
    assert {"train_mean_reward": 0.75} == json.loads(
        await sql.fetchval("select extra_metrics from fine_tuning.checkpoints")
    )
    assert [("regressed", "0.25", None), ("changed", None, "0.75")] == [
        (kind, old, new) for kind, field, old, new in await _kinds(sql) if field == "extra_metrics.train_mean_reward"
    ]
    assert 0.75 == await sql.fetchval(
        "select value from fine_tuning.checkpoint_metrics where metric = 'train_mean_reward'"
    )


async def test_poison_stands_alone(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An item that only the database refuses is found by halving and rejected; all others are stored."""
    await sql.execute("alter table checkpointd.checkpoints add constraint no_13 check (step_number <> 13)")
    jobs = [f"ftjob-{n}" for n in range(5)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(n, job=name) for n in range(10, 16)])
    results = await sync(store, provider, *jobs)
    assert all(isinstance(result, SavedPoll) for result in results.values())
    assert 5 * 5 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 5 == await sql.fetchval("select count(*) from fine_tuning.rejects where reason ~ 'CheckViolation'")


async def test_zombie_writes_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A poll whose lease was taken over writes nothing, and says so."""
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    polling = asyncio.create_task(sync(store, provider))
    await reached.wait()
    await sql.execute("update checkpointd.polling set lease_token = lease_token + 1")
    go_on.set()
    with capture_logs() as logged:
        (result,) = (await polling).values()
    assert isinstance(result, Failure)
    assert [("poll.dropped", [JOB])] == [(line["event"], line["jobs"]) for line in logged]
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")


async def test_two_polls_of_one_job_in_one_save(store: Store, sql: asyncpg.Connection) -> None:
    """A daemon that was frozen beyond a lease saves what it listed under it beside its next poll: only that counts."""
    await track(store)
    (found,) = await store.find_jobs([JOB])
    capacities = {found.source: Capacity(8, 2, None)}

    async def poll_twice(old_step: int, new_step: int) -> list[PollResult]:
        polls = []
        for step in (old_step, new_step):
            await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
            (lease,) = await store.claim_due_jobs(capacities, 60)
            pages = RawListing([[json.dumps(checkpoint(step)).encode()]], None, 1)
            polls.append(evaluate(lease, pages, BOUNDS, lambda _: False))
        return polls

    old, new = await poll_twice(2, 1)
    assert [new] == [one.result for one in await save_changed(store, [new, old])]
    assert ["ftckpt_0001"] == [row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")]
    old, new = await poll_twice(1, 1)
    assert (True, True) == (old.quiet, new.quiet)
    assert [new] == [one.result for one in await save_quiet(store, [new, old])]


async def test_two_pollers_share(store: Store, provider: Provider) -> None:
    """Two pollers at once poll each due job once."""
    jobs = [f"ftjob-{n}" for n in range(60)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(1, job=name)])
    await track(store, *jobs)

    async def work() -> int:
        async with polling_one(store, provider) as (poller, _, results):
            while await tick(poller):
                pass
        return len(results)

    assert 60 == sum(await asyncio.gather(work(), work()))
    assert [1] * 60 == [provider.asked(name) for name in jobs]


@pytest.mark.parametrize("named", [False, True])
async def test_slow_claim_takes_nothing_twice(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """A claim that began before another one, and was held up, takes neither its leases nor what it has polled since."""
    await track(store)
    (found,) = await store.find_jobs([JOB])
    capacities = {found.source: Capacity(8, 2, None)}
    (lease,) = await store.claim_due_jobs(capacities, 60)
    began = "clock_timestamp() - interval '9 s' as now"
    for name in ("CLAIM_DUE_JOBS", "CLAIM_NAMED_JOBS"):
        monkeypatch.setattr(queries, name, getattr(queries, name).replace("clock_timestamp() as now", began))
    assert [] == await (store.claim_named_jobs([found], {}, 60) if named else store.claim_due_jobs(capacities, 60))
    await sql.execute("update checkpointd.polling set lease_expires_at = null, next_poll_at = now() + interval '9 s'")
    assert [] == await store.claim_due_jobs(capacities, 60)
    assert lease.lease_token == await sql.fetchval("select lease_token from checkpointd.polling")


async def test_refused_key_releases_its_jobs(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 401 silences this process, blames no job, gives its leases back, and leaves the source to other keys."""
    jobs = [f"ftjob-{n}" for n in range(20)]
    for name in jobs:
        provider.checkpoints[name] = error(401, "invalid_api_key", "Incorrect API key provided: sk-abc***xyz")
    await track(store, *jobs)
    async with polling_one(store, provider) as (poller, service, _):
        await tick(poller)
        assert 0 == service.capacity(asyncio.get_running_loop().time()).slots
    rows = await sql.fetch(
        "select lease_expires_at, failures, last_error, next_poll_at <= now() as due from checkpointd.polling"
    )
    assert {(None, 0, None, True)} == {tuple(row) for row in rows}
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")
    assert 8 >= len(provider.requests)
    for name in jobs:
        provider.checkpoints[name] = page([])
    await sync(store, provider, *jobs)
    assert "ok" == await sql.fetchval("select state from fine_tuning.sources")


async def test_throttling_pauses_the_source(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 429 pauses the source for every daemon for as long as it asks, and blames no job."""
    await track(store, JOB, "ftjob-2")
    provider.checkpoints[JOB] = provider.checkpoints["ftjob-2"] = error(429, "rate_limit_exceeded", retry_after="120")
    async with polling_one(store, provider) as (poller, _, _):
        await tick(poller)
    row = await sql.fetchrow("select state, resume_at - since as pause from fine_tuning.sources")
    assert row is not None
    assert "paused" == row["state"]
    assert 120 <= row["pause"].total_seconds() < 150  # from the first refusal to two minutes after the last
    assert [0, 0] == [r[0] for r in await sql.fetch("select failures from checkpointd.polling")]
    async with polling_one(store, provider) as (poller, _, _):
        assert 0 == await poller.tick()


async def test_long_list_is_read_within_a_small_budget(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list of more pages than the budget allows in its time is read to its end: the budget is in debt then."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(20, 0, -1)])
    await track(store)
    async with polling_one(store, provider, lease=8, page_size=1, request_interval=6) as (poller, _, _):
        await poller.poll_named(await store.find_jobs([JOB]))
    assert 20 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert await sql.fetchval("select last_complete_at is not null from fine_tuning.freshness")
    assert await sql.fetchval("select budget_at > now() + interval '90 s' from checkpointd.sources")


async def test_budget_is_kept(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """With a budget of a request in ten seconds, a claim takes one job and the next claim none."""
    jobs = [f"ftjob-{n}" for n in range(5)]
    await track(store, *jobs)
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 1 == await poller.tick()
        assert 0 == await poller.tick()
    await sql.execute("update checkpointd.sources set budget_at = budget_at - interval '10 s'")
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 1 == await poller.tick()


async def test_budget_paces_further_requests(store: Store, provider: Provider) -> None:
    """With a budget of ten requests a second, two jobs of sixteen pages are read at that rate, not page upon page."""
    await track(store, "ftjob-1", "ftjob-2")
    for name in ("ftjob-1", "ftjob-2"):
        provider.checkpoints[name] = paged([checkpoint(n, name) for n in range(16, 0, -1)])
    began = time.monotonic()
    async with polling_one(store, provider, request_interval=0.1, page_size=1) as (poller, _, results):
        assert 2 == await tick(poller)
    # A second's share at once, 22 requests in turn.
    assert 2.1 < time.monotonic() - began < 30
    assert [16, 16] == [results[name].new for name in ("ftjob-1", "ftjob-2")]


async def test_budget_ends_no_listing(store: Store, provider: Provider) -> None:
    """A listing that by its budget would take longer than its lease is read to its end: a debt, which stops claims."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(4, 0, -1)])
    await track(store)
    async with polling_one(store, provider, request_interval=10, lease=2, page_size=1) as (poller, _, results):
        assert 1 == await tick(poller)
    assert (True, 4) == (results[JOB].result.complete, results[JOB].new)
    await track(store, "ftjob-2")
    async with polling_one(store, provider, request_interval=10) as (poller, _, _):
        assert 0 == await tick(poller)


async def test_failing_jobs_take_a_quarter(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Of eight slots, jobs that fail get two, however long they have been due."""
    failing, healthy = [f"ftjob-f{n}" for n in range(20)], [f"ftjob-h{n}" for n in range(20)]
    await track(store, *failing, *healthy)
    await sql.execute("""
        update checkpointd.polling p set failures = 3, next_poll_at = now() - interval '1 day'
        from checkpointd.jobs j where j.key = p.job and j.id like 'ftjob-f%'""")
    async with polling_one(store, provider) as (poller, _, _):
        assert 8 == await poller.tick()
        rows = await sql.fetch(
            "select failures > 0, count(*) from checkpointd.polling where lease_expires_at > now() group by 1"
        )
        assert {True: 2, False: 6} == dict(map(tuple, rows))


async def test_clock_set_back(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After the database's clock went back a month, every job is due at once, leased or not."""
    await track(store, JOB, "ftjob-2")
    await sql.execute("""
        update checkpointd.polling
        set last_attempt_at = now() + interval '30 d', next_poll_at = now() + interval '30 d',
          lease_expires_at = now() + interval '30 d 1 min'""")
    async with polling_one(store, provider) as (poller, _, _):
        assert 2 == await poller.tick()


async def test_untracked_and_sealed_are_not_polled(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An untracked job keeps its rows and is not polled, even after the clock went back; tracked again it is due."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await store.untrack(await store.find_jobs([JOB]))
    await sql.execute("update checkpointd.polling set last_attempt_at = now() + interval '30 d'")
    async with polling_one(store, provider) as (poller, _, _):
        assert 0 == await poller.tick()
    assert (1, "untracked") == tuple((await sql.fetch("select checkpoint_count, phase from fine_tuning.jobs"))[0])
    await track(store)
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await poller.tick()


async def test_drain_gives_back_what_does_not_end(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draining cuts a poll short that does not end in time, and leaves no lease behind."""
    monkeypatch.setattr(setup, "LAST_SAVE_SECONDS", 30)
    reached = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.checkpoints[JOB] = never
    await track(store)
    async with polling_one(store, provider, drain=0.05) as (poller, _, _):
        await poller.tick()
        await reached.wait()
    assert (None, 0) == tuple((await sql.fetch("select lease_expires_at, failures from checkpointd.polling"))[0])


async def test_resync_during_a_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A resync that is asked for during a poll survives its save: due at once, compared in full."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    polling = asyncio.create_task(sync(store, provider))
    await reached.wait()
    await store.resync(await store.find_jobs([JOB]))
    go_on.set()
    await polling
    assert (None, True) == tuple((await sql.fetch("select digest, next_poll_at <= now() from checkpointd.polling"))[0])


async def test_job_list_tells_statuses(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The job list fills in tracked jobs, a changed status is a change and wakes its job; others are left alone."""
    await track(store)
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    assert not await sql.fetchval("select next_poll_at <= now() from checkpointd.polling")
    for status in ("queued", "queued", "succeeded"):
        extra: dict[str, Any] = (
            {"fine_tuned_model": "ft:x", "finished_at": 1_721_765_000} if status == "succeeded" else {}
        )
        provider.jobs = page([job(status=status, **extra), job("ftjob-other")])
        await read_job_list(store, provider)
    assert [(None, "queued"), ("queued", "succeeded")] == [
        (old, new) for kind, _, old, new in await _kinds(sql) if kind == "status"
    ]
    row = await sql.fetchrow(
        "select id, status, fine_tuned_model, phase, hyperparameters ->> 'n_epochs' as n from fine_tuning.jobs"
    )
    assert row is not None
    assert (JOB, "succeeded", "ft:x", "settling", "3") == tuple(row)
    assert await sql.fetchval("select next_poll_at <= now() from checkpointd.polling")


async def test_discovery_tracks_and_never_untracks(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """With discovery each listed job is tracked; one that is listed no more stays so, one that was untracked too."""
    provider.jobs = page([job(f"ftjob-{n}") for n in range(3)])
    await read_job_list(store, provider, discover=True)
    provider.jobs = page([job("ftjob-9")])
    await read_job_list(store, provider, discover=True)
    assert ["ftjob-0", "ftjob-1", "ftjob-2", "ftjob-9"] == [
        r[0] for r in await sql.fetch("select id from fine_tuning.jobs where phase = 'active' order by 1")
    ]


async def test_unreadable_job_list_asks_for_no_single_job(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """Where the job list cannot be read, its source says so and no single job is asked for."""
    await track(store)
    await read_job_list(store, provider)
    assert 1 == len(provider.requests)
    assert "HTTP 404 unknown_url no" == await sql.fetchval("select job_list_error from fine_tuning.sources")


async def test_unknown_job_is_missing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that the provider does not know is shown as missing; asked for over an hour, as gone."""
    await sync(store, provider)
    assert "missing" == await sql.fetchval("select phase from fine_tuning.jobs")
    await sql.execute("update checkpointd.polling set equal_failures = 4, failing_since = now() - interval '2 h'")
    await sync(store, provider)
    row = await sql.fetchrow(
        "select phase, next_poll_at - last_attempt_at as gap from fine_tuning.jobs, fine_tuning.freshness"
    )
    assert row is not None
    assert ("gone", 86400) == (row["phase"], row["gap"].total_seconds())


async def test_reflected_key_is_not_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An item, or a job record, in which the key stands, escaped or not, is kept without its bytes."""
    key = "canary-key"
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    texts = [
        json.dumps({**checkpoint(1), "fine_tuned_model_checkpoint": f"ft:{key}"}),
        json.dumps({**checkpoint(2), "fine_tuned_model_checkpoint": "ft:KEY"}).replace("KEY", escaped),
        json.dumps(checkpoint(3)),
    ]
    provider.checkpoints[JOB] = body('{"object":"list","data":[' + ",".join(texts) + '],"has_more":false}')
    provider.jobs = page([job(metadata={"echo": key}), job("ftjob-2")])
    await sync(store, provider)
    await read_job_list(store, provider)
    assert [3] == [r[0] for r in await sql.fetch("select step_number from fine_tuning.checkpoints")]
    assert {("it contains a secret", None)} == {
        tuple(r) for r in await sql.fetch("select reason, raw from fine_tuning.rejects")
    }
    assert await sql.fetchval("select status is null from fine_tuning.jobs")


async def test_one_forbidden_job_silences_no_other(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Once a key was good for one job, a 403 for another is that job's own."""
    await track(store, JOB, "ftjob-2")
    provider.checkpoints[JOB] = page([])
    provider.checkpoints["ftjob-2"] = body("<html>blocked", "text/html", 403)
    async with polling_one(store, provider) as (poller, service, _):
        await poller.poll_named(await store.find_jobs([JOB]))
        await poller.poll_named(await store.find_jobs(["ftjob-2"]))
        assert 0 == service.refusals
    assert ["active", "forbidden"] == [
        r[0] for r in await sql.fetch("select phase from fine_tuning.jobs order by phase")
    ]


async def test_untracked_stays_so(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Discovery does not bring back what a person untracked, nor does a claim, a resync or a status."""
    provider.jobs = page([job()])
    await read_job_list(store, provider, discover=True)
    found = await store.find_jobs([JOB])
    await store.untrack(found)
    provider.jobs = page([job(status="succeeded")])
    await read_job_list(store, provider, discover=True)
    await store.resync(found)
    assert [] == await store.claim_named_jobs(found, {}, 60)
    assert (True, "untracked") == tuple(
        (await sql.fetch("select next_poll_at = 'infinity', phase from checkpointd.polling, fine_tuning.jobs"))[0]
    )


async def test_sealed_job_gets_its_first_status(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that was sealed before its status was known is polled again once it is."""
    await track(store)
    await sql.execute("update checkpointd.polling set sealed_at = now(), next_poll_at = 'infinity'")
    provider.jobs = page([job(status="running")])
    await read_job_list(store, provider)
    assert await sql.fetchval("select next_poll_at <= now() from checkpointd.polling")


async def test_odd_records_cost_no_view(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Steps at the ends of 64 bits, and documents with what no text holds, cost no reader a view."""
    items = [checkpoint(1), {**checkpoint(2), "step_number": 2**63 - 1}, {**checkpoint(3), "step_number": -5}]
    provider.checkpoints[JOB] = page(items)
    provider.jobs = page([job(hyperparameters={"n_epochs": "3\0"}, created_at=2**62, status="running\0")])
    await sync(store, provider)
    await read_job_list(store, provider)
    for view in await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'"):
        await sql.fetch(f"select * from fine_tuning.{view['viewname']}")
    assert 3 == await sql.fetchval("select checkpoint_count from fine_tuning.jobs")


async def test_a_row_that_is_held_holds_up_no_other(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Somebody's lock on one job's row costs that job's poll, and no other's."""
    jobs = [f"ftjob-{n}" for n in range(8)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(1, job=name)])
    for saved in (8, 8):  # the first time they have something to tell, then they are quiet
        await sync(store, provider, *jobs)
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        async with polling_one(store, provider) as (poller, _, results):
            assert 8 == await poller.tick()
            async with sql.transaction():
                await sql.execute("select from checkpointd.polling limit 1 for update")
                await poller.idle()
                await poller.queue.saved()
        assert saved - 1 == sum(isinstance(result, SavedPoll) for result in results.values())
        await sql.execute("update checkpointd.polling set lease_expires_at = null")


async def test_pause_is_not_shortened(store: Store, sql: asyncpg.Connection) -> None:
    """A shorter pause does not shorten a longer one; a refusal after a pause is seen."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 900, "long")
    await store.pause_source(key, 1, "short")
    assert await sql.fetchval("select resume_at > now() + interval '800 s' from fine_tuning.sources")
    await sql.execute("update checkpointd.sources set resume_at = now() - interval '1 s'")
    await store.refuse_source(key, "no")
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")


async def test_answers_under_way_end_no_silence(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Asked to pause, a pass ends at once and says so for each job, whatever good answers were still under way."""
    jobs = [f"ftjob-{n}" for n in range(40)]
    for name in jobs:
        provider.checkpoints[name] = page([])
    provider.checkpoints[jobs[0]] = error(429, "rate_limit_exceeded", retry_after="120")
    await track(store, *jobs)
    started = asyncio.get_running_loop().time()
    async with polling_one(store, provider) as (poller, service, results):
        left = await poller.poll_named(await store.find_jobs(jobs))
        assert service.failure is not None
    assert asyncio.get_running_loop().time() - started < 30
    throttled = [result for result in results.values() if isinstance(result, Failure)]
    assert {"throttled"} == {failure.error_class for failure in throttled}
    assert 40 == len(left) + len(results)
    assert "paused" == await sql.fetchval("select state from fine_tuning.sources")


async def test_key_that_lost_its_rights(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After good answers, a 403 for every job is the key's: the source is refused, and the jobs are given back."""
    jobs = [f"ftjob-{n}" for n in range(5)]
    for name in jobs:
        provider.checkpoints[name] = page([])
    await sync(store, provider, *jobs)
    for name in jobs:
        provider.checkpoints[name] = error(403, "unsupported_country_region_territory")
    await sql.execute("update checkpointd.polling set next_poll_at = now()")
    async with polling_one(store, provider) as (poller, service, _):
        service.key_accepted = True
        await tick(poller)
        assert service.refusals > 0
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")
    assert 1 >= await sql.fetchval("select count(*) from checkpointd.polling where failures > 0")
