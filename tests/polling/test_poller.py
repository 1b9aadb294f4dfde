"""A poll, from the claim to the views: nothing is lost or erased, and a quiet poll writes nothing."""

import asyncio
import json
import math

import asyncpg
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from checkpointd.domain import diff
from checkpointd.domain.failure import Failure
from checkpointd.domain.poll import SavedPoll
from checkpointd.polling import setup
from checkpointd.polling.save_queue import BATCH_ITEMS
from checkpointd.postgres import comparison
from checkpointd.postgres.store import Store
from support.harness import polling_one, read_job_list, row_versions, sync, track
from support.provider import JOB, Provider, body, checkpoint, error, held, job, page, paged

STEPS = "select array_agg(step_number::int order by step_number) from fine_tuning.checkpoints"


async def _freshness(sql: asyncpg.Connection) -> asyncpg.Record:
    row = await sql.fetchrow("select * from fine_tuning.freshness where fine_tuning_job_id = $1", JOB)
    assert row is not None
    return row


async def _changes(sql: asyncpg.Connection) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return kind, field, old value and new value of each change, in the order of the feed."""
    rows = await sql.fetch("select kind, field, old_value, new_value from fine_tuning.changes order by seq")
    return [tuple(row) for row in rows]


async def test_all_pages_are_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Twenty-five checkpoints in pages of four are all stored, each with one `new` change."""
    provider.checkpoints[JOB] = paged([checkpoint(n) for n in range(25, 0, -1)])
    await sync(store, provider, page_size=4)
    assert [*range(1, 26)] == await sql.fetchval(STEPS)
    assert [("new", None, None, None)] * 25 == await _changes(sql)
    assert 7 == provider.asked()


async def test_quiet_polls_write_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Forty polls that find nothing new write no row except the job's row of `polling`."""
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    await sync(store, provider)
    before = await row_versions(sql)
    for _ in range(40):
        await sync(store, provider)
    assert before == await row_versions(sql)
    assert 40 == (await _freshness(sql))["quiet_polls"]


async def test_quiet_polls_keep_the_digest(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After a quiet poll the digest is that of the last complete listing still: no later poll compares it in full."""
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    digests = set()
    for _ in range(4):
        await sync(store, provider)
        digests.add(await sql.fetchval("select digest from checkpointd.polling"))
    assert 1 == len(digests - {None}) == len(digests)


async def test_late_metric_is_found_after_quiet_polls(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """After forty quiet polls, a late metric of the oldest checkpoint, on the last page, is still found."""
    items = [checkpoint(n) for n in range(9, 0, -1)]
    provider.checkpoints[JOB] = paged(items)
    for _ in range(41):
        await sync(store, provider, page_size=4)
    items[-1] = checkpoint(1, full_valid_loss=0.5)
    await sync(store, provider, page_size=4)
    assert ("changed", "full_valid_loss", None, "0.5") == (await _changes(sql))[-1]
    assert 0.5 == await sql.fetchval("select full_valid_loss from fine_tuning.checkpoints where step_number = 1")


async def test_null_erases_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A null after a value adds one `regressed` and keeps the value; another null adds nothing; a value is a change."""
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
    ] == [change for change in await _changes(sql) if change[0] != "new"]


async def test_there_and_back_is_two_changes(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A value that goes from A to B and back to A leaves two changes."""
    for loss in (0.5, 0.6, 0.5):
        provider.checkpoints[JOB] = page([checkpoint(1, train_loss=loss)])
        await sync(store, provider)
    assert [("changed", "train_loss", "0.5", "0.6"), ("changed", "train_loss", "0.6", "0.5")] == [
        change for change in await _changes(sql) if change[0] != "new"
    ]


async def test_missing_after_two_listings(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint is missing after two complete listings without it, is kept, and returns when it is listed again."""
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
    assert ["new", "new", "missing", "returned"] == [kind for kind, *_ in await _changes(sql)]


async def test_incomplete_listing_is_stored_but_no_success(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """If the second page fails, the first one is stored, nothing is missing, and the poll is no success."""
    items = [checkpoint(n) for n in range(6, 0, -1)]
    provider.checkpoints[JOB] = paged(items)
    await sync(store, provider, page_size=3)
    before = await _freshness(sql)
    first_page = [checkpoint(7), *items[:2]]
    for _ in range(3):
        provider.checkpoints[JOB] = [page(first_page, has_more=True), error(500)]
        (outcome,) = (await sync(store, provider, page_size=3)).values()
        assert isinstance(outcome, SavedPoll)
        assert not outcome.result.complete
    after = await _freshness(sql)
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where missing_since is null")
    for column in ("last_complete_at", "last_success_at"):
        assert before[column] == after[column]
    assert ("server_error", 3) == (after["error_class"], after["consecutive_failures"])
    rows = await sql.fetch("select outcome, error_class, count, new from fine_tuning.polls order by id")
    expected = [("changed", None, 1, 6), ("partial", "server_error", 1, 1), ("failed", "server_error", 2, 0)]
    assert expected == [tuple(row) for row in rows]


async def test_recovery_is_seen(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After failures the next complete listing clears the error, and the failed polls stay in the view polls."""
    provider.checkpoints[JOB] = error(500)
    await sync(store, provider)
    await sync(store, provider)
    provider.checkpoints[JOB] = page([])
    await sync(store, provider)
    row = await _freshness(sql)
    assert (None, None, 0) == (row["error_class"], row["last_error"], row["consecutive_failures"])
    assert row["last_success_at"] is not None
    assert [("failed", 2)] == [tuple(r) for r in await sql.fetch("select outcome, count from fine_tuning.polls")]


async def test_bad_items_become_rejects(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An item with a bad important value is kept with its bytes and a reason, and the poll is no success."""
    bad = [
        {**checkpoint(3), "step_number": "3"},
        {**checkpoint(4), "fine_tuning_job_id": "ftjob-other"},
        {**checkpoint(5), "step_number": None},
        {**checkpoint(6), "id": "has blanks"},
        {**checkpoint(7), "step_number": 2**63},
        "no object",
    ]
    provider.checkpoints[JOB] = page([checkpoint(2), *bad, checkpoint(1)])
    for _ in range(2):
        await sync(store, provider)
    assert [1, 2] == await sql.fetchval(STEPS)
    rows = await sql.fetch("select reason, raw, count from fine_tuning.rejects")
    assert {json.dumps(item) for item in bad} == {row["raw"].decode() for row in rows}
    assert {1} == {row["count"] for row in rows}
    row = await _freshness(sql)
    assert row["last_success_at"] is None
    assert row["last_complete_at"] is not None


async def test_not_finite_is_null_and_rejected(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A metric of NaN, Infinity or 1e400 is stored as null, and its item is kept in rejects; the page is read."""
    texts = [json.dumps(checkpoint(n, valid_loss=value)) for n, value in ((1, math.nan), (2, math.inf), (3, 12345.5))]
    listed = ",".join(texts).replace("12345.5", "1e400")
    provider.checkpoints[JOB] = body('{"object":"list","data":[' + listed + '],"has_more":false}')
    await sync(store, provider)
    rows = await sql.fetch("select train_loss, valid_loss from fine_tuning.checkpoints order by step_number")
    assert [(1, None), (1 / 2, None), (1 / 3, None)] == [tuple(row) for row in rows]
    assert 3 == await sql.fetchval("select count(*) from fine_tuning.rejects where reason ~ 'valid_loss'")


async def test_extra_metrics(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Any other numeric metric is kept, its change is a change, and a null does not erase it."""
    for reward in (0.25, None, 0.75):
        provider.checkpoints[JOB] = page([checkpoint(1, train_mean_reward=reward, odd="text")])  # type: ignore[arg-type]
        await sync(store, provider)
    extra = await sql.fetchval("select extra_metrics from fine_tuning.checkpoints")
    assert {"train_mean_reward": 0.75} == json.loads(extra)
    field = "extra_metrics.train_mean_reward"
    assert [("regressed", field, "0.25", None), ("changed", field, None, "0.75")] == [
        change for change in await _changes(sql) if change[1] == field
    ]
    assert 0.75 == await sql.fetchval(
        "select value from fine_tuning.checkpoint_metrics where metric = 'train_mean_reward'"
    )


async def test_item_that_the_database_rejects(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An item that only the database rejects becomes a reject; all other items of the batch are stored."""
    await sql.execute("alter table checkpointd.checkpoints add constraint no_13 check (step_number <> 13)")
    jobs = [f"ftjob-{n}" for n in range(5)]
    for name in jobs:
        provider.checkpoints[name] = page([checkpoint(n, job=name) for n in range(10, 16)])
    outcomes = await sync(store, provider, *jobs)
    assert all(isinstance(outcome, SavedPoll) for outcome in outcomes.values())
    assert 5 * 5 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 5 == await sql.fetchval("select count(*) from fine_tuning.rejects where reason ~ 'CheckViolation'")


async def test_reflected_key_is_not_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The bytes of an item, or of a job record, that contains the key, escaped or not, are not stored."""
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
    assert [3] == await sql.fetchval(STEPS)
    rejects = await sql.fetch("select reason, raw from fine_tuning.rejects")
    assert {("it contains a secret", None)} == {tuple(row) for row in rejects}
    assert await sql.fetchval("select status is null from fine_tuning.jobs")


async def test_odd_values_break_no_view(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Every view can be read if steps are at the ends of 64 bits and job records contain what no text can hold."""
    items = [checkpoint(1), {**checkpoint(2), "step_number": 2**63 - 1}, {**checkpoint(3), "step_number": -5}]
    provider.checkpoints[JOB] = page(items)
    provider.jobs = page([job(hyperparameters={"n_epochs": "3\0"}, created_at=2**62, status="running\0")])
    await sync(store, provider)
    await read_job_list(store, provider)
    for view in await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'"):
        await sql.fetch(f"select * from fine_tuning.{view['viewname']}")
    assert 3 == await sql.fetchval("select checkpoint_count from fine_tuning.jobs")


async def test_poll_that_lost_its_lease_writes_nothing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A poll whose job another daemon has claimed since writes nothing, and is logged as dropped."""
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    polling = asyncio.create_task(sync(store, provider))
    await reached.wait()
    await sql.execute("update checkpointd.polling set lease_token = lease_token + 1")
    go_on.set()
    with capture_logs() as logged:
        (outcome,) = (await polling).values()
    assert isinstance(outcome, Failure)
    assert [("poll.dropped", [JOB])] == [(line["event"], line["jobs"]) for line in logged]
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")


async def test_resync_during_a_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A resync during a poll survives its save: the job is due at once, and its listing will be compared in full."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    polling = asyncio.create_task(sync(store, provider))
    await reached.wait()
    await store.resync(await store.find_jobs([JOB]))
    go_on.set()
    await polling
    row = await sql.fetchrow("select digest, next_poll_at <= now() from checkpointd.polling")
    assert (None, True) == tuple(row or ())


async def test_drain_releases_polls_that_do_not_end(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain cancels a poll that does not end in time and releases its job, without counting a failure."""
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
    row = await sql.fetchrow("select lease_expires_at, failures from checkpointd.polling")
    assert (None, 0) == tuple(row or ())


# Bounds of a save


async def test_stored_checkpoints_are_read_in_parts(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the stored checkpoints of several jobs take too much memory together, each job is compared by itself."""
    monkeypatch.setattr(comparison, "STORED_BYTES", 1)
    jobs = [f"ftjob-{number}" for number in range(4)]
    for steps in (2, 3):
        for name in jobs:
            provider.checkpoints[name] = page([checkpoint(step, name) for step in range(steps, 0, -1)])
        outcomes = await sync(store, provider, *jobs)
    assert [1] * 4 == [outcome.new for outcome in outcomes.values() if isinstance(outcome, SavedPoll)]
    assert 12 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")


async def test_stored_payloads_are_read_in_parts(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the connection is too slow to read all stored payloads that changed, each poll saves a part of the changes.

    A payload that is listed unchanged is not read.
    """
    monkeypatch.setattr(comparison, "PAYLOAD_BYTES", 1)
    note = "x" * BATCH_ITEMS  # so that one payload is read in a save
    for steps in (3, 4):
        provider.checkpoints[JOB] = page([{**checkpoint(step), "note": note} for step in range(steps, 0, -1)])
        (outcome,) = (await sync(store, provider, JOB)).values()
        assert isinstance(outcome, SavedPoll)
        assert outcome.result.complete
    provider.checkpoints[JOB] = page([{**checkpoint(step, train_loss=0.75), "note": note} for step in range(4, 0, -1)])
    for part in range(1, 5):
        (outcome,) = (await sync(store, provider, JOB)).values()
        assert isinstance(outcome, SavedPoll)
        assert (1, part == 4) == (outcome.changed, outcome.result.complete), outcome.result.error
        assert part == await sql.fetchval("select count(*) from fine_tuning.checkpoints where train_loss = 0.75")


async def test_stored_checkpoints_that_are_too_large(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose stored checkpoints take too much memory fails, backs off, and keeps them. Other jobs are saved."""
    for steps in (1, 2):
        for name in (JOB, "ftjob-2"):
            provider.checkpoints[name] = page([checkpoint(step, name) for step in range(steps, 0, -1)])
        provider.checkpoints[JOB] = page([checkpoint(n) for n in range(40 + steps, 0, -1)])
        await sync(store, provider, JOB, "ftjob-2")
        monkeypatch.setattr(comparison, "LARGEST_JOB_BYTES", 10_000)
    rows = await sql.fetch(
        """select error_class, error_class is not null and next_poll_at > now() + interval '4 min', checkpoint_count
        from fine_tuning.freshness f join fine_tuning.jobs j on j.id = f.fine_tuning_job_id order by j.id"""
    )
    assert [(None, False, 2), ("too_large", True, 41)] == [tuple(row) for row in rows]


async def test_more_changes_than_are_saved_at_once(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing with too many changes counts as incomplete, until polls have saved all of them."""
    monkeypatch.setattr(diff, "MOST_CHANGES", 2)
    provider.checkpoints[JOB] = page([checkpoint(step) for step in range(5, 0, -1)])
    states = []
    for _ in range(3):
        await sync(store, provider)
        states.append(
            tuple(
                await sql.fetchrow(
                    """select (select count(*) from fine_tuning.checkpoints), last_complete_at is not null
                    from fine_tuning.freshness"""
                )
            )
        )
    assert [(2, False), (4, False), (5, True)] == states
