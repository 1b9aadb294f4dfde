"""The states of a job from poll to poll: it ends, settles and is sealed, is missing or gone, and comes back."""

import asyncpg
import pytest
from structlog.testing import capture_logs

from checkpointd.postgres.overview import count_by_source
from checkpointd.postgres.store import Store
from checkpointd.service.database_changes import DatabaseChanges
from checkpointd.telemetry.health import Health
from support.harness import polling_one, read_job_list, sync, tick, track
from support.provider import JOB, Provider, checkpoint, error, held, job, page


async def _poll(store: Store, provider: Provider) -> int:
    """Poll the only job if it is due. Returns the number of polls."""
    async with polling_one(store, provider) as (poller, _, _):
        return await tick(poller)


async def _hours_pass(sql: asyncpg.Connection, hours: float) -> None:
    """Let time pass for the only job: move its stored times back by so many hours."""
    await sql.execute(
        """update checkpointd.polling set next_poll_at = next_poll_at - $1, last_attempt_at = last_attempt_at - $1,
        last_complete_at = last_complete_at - $1, last_change_at = last_change_at - $1,
        failing_since = failing_since - $1, settling_since = settling_since - $1, newest_seen_at = newest_seen_at - $1,
        waiting_since = waiting_since - $1;
        update checkpointd.jobs set tracked_at = tracked_at - $1""".replace("$1", f"interval '{hours} h'")
    )


async def _phase(sql: asyncpg.Connection) -> str:
    phase = await sql.fetchval("select phase from fine_tuning.jobs where id = $1", JOB)
    assert isinstance(phase, str)
    return phase


async def test_gone_and_back(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After five 404s over an hour a job is gone: polled daily, not stale, and active when it is found again."""
    provider.checkpoints[JOB] = provider.checkpoints["ftjob-other"] = page([checkpoint(1)])
    await track(store, JOB, "ftjob-other")
    phases = []
    async with polling_one(store, provider) as (poller, _, _):
        assert 2 == await tick(poller)
        provider.checkpoints[JOB] = error(404, "fine_tune_not_found")
        for _ in range(5):
            await poller.queue.saved()
            await _hours_pass(sql, 0.26)
            assert 2 == await tick(poller)
            await poller.queue.saved()
            phases.append(await _phase(sql))
    assert ["missing", "missing", "missing", "missing", "gone"] == phases
    row = await sql.fetchrow(
        """select is_stale, next_poll_at - last_attempt_at as gap from fine_tuning.freshness
        where fine_tuning_job_id = $1""",
        JOB,
    )
    assert row is not None
    assert (False, 86400) == (row["is_stale"], row["gap"].total_seconds())
    assert await sql.fetchval("select bool_and(missing_since is null) from fine_tuning.checkpoints")

    await store.untrack(await store.find_jobs(["ftjob-other"]))
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    assert 0 == await _poll(store, provider)
    await _hours_pass(sql, 24)
    assert 1 == await _poll(store, provider)
    count = "select checkpoint_count from fine_tuning.jobs where id = $1"
    assert ("active", 2) == (await _phase(sql), await sql.fetchval(count, JOB))


async def test_another_failure_restarts_the_hour_until_gone(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A job is gone only after five 404s in a row: another failure between them starts the count again."""
    await track(store)
    for answer in (*4 * [error(404)], error(400), *4 * [error(404)]):
        provider.checkpoints[JOB] = answer
        await _hours_pass(sql, 2)
        assert 1 == await _poll(store, provider)
    assert "missing" == await _phase(sql)


async def test_settles_then_is_sealed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An ended job is polled for another day; then three equal listings seal it: no more polls, and not stale."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    provider.jobs = page([job(status="succeeded")])
    await read_job_list(store, provider)
    phases = []
    while "sealed" not in phases:
        await _hours_pass(sql, 6)
        assert 1 == await _poll(store, provider)
        phases.append(await _phase(sql))
    assert ["settling"] * 5 + ["sealed"] == phases
    assert (None, False) == tuple(await sql.fetchrow("select next_poll_at, is_stale from fine_tuning.freshness") or ())
    assert 0 == await _poll(store, provider)


async def _poll_until(store: Store, provider: Provider, sql: asyncpg.Connection, phase: str) -> list[str]:
    """Poll once an hour until the job has this phase. Returns the phases on the way."""
    phases = [await _phase(sql)]
    while phases[-1] != phase and len(phases) < 40:
        await _hours_pass(sql, 1)
        assert 1 == await _poll(store, provider)
        phases.append(await _phase(sql))
    return phases


async def test_only_polls_end_a_silent_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """While no daemon runs, no job is sealed: a job of unknown status settles only from its next listing on."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    for _ in range(3):
        await _hours_pass(sql, 1)
        assert 1 == await _poll(store, provider)
    await _hours_pass(sql, 97)
    assert "active" == await _phase(sql)
    assert 1 == await _poll(store, provider)
    assert 23 < (await _poll_until(store, provider, sql, "sealed")).count("settling") < 28


async def test_new_checkpoint_reopens_a_job_without_status(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A job that settles without a status is active again with a new checkpoint; one with a final status is not."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await _hours_pass(sql, 97)
    assert 1 == await _poll(store, provider)
    assert "settling" == await _phase(sql)
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    await _hours_pass(sql, 1)
    assert 1 == await _poll(store, provider)
    assert "active" == await _phase(sql)
    provider.jobs = page([job(status="succeeded")])
    await read_job_list(store, provider)
    provider.checkpoints[JOB] = page([checkpoint(3), checkpoint(2), checkpoint(1)])
    await _hours_pass(sql, 1)
    assert 1 == await _poll(store, provider)
    assert "settling" == await _phase(sql)


async def test_tracked_again_a_job_is_active_again(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that settled without a status is active again for days if it is untracked and tracked again."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await _hours_pass(sql, 97)
    assert 1 == await _poll(store, provider)
    assert "settling" == await _phase(sql)
    await store.untrack(await store.find_jobs([JOB]))
    await track(store)
    for _ in range(3):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 12)
    assert "active" == await _phase(sql)


async def test_downtime_after_the_end_seals_no_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Equal listings right after a job's end do not count: three are needed after the settle time."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.jobs = page([job(status="succeeded")])
    await track(store)
    await read_job_list(store, provider)
    for _ in range(5):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 0.1)
    await _hours_pass(sql, 25)
    assert ["settling"] * 3 + ["sealed"] == await _poll_until(store, provider, sql, "sealed")


async def test_seal_by_a_clock_that_was_ahead(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that is sealed right after its end, by a clock a month ahead, is polled again once the clock is right."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.jobs = page([job(status="succeeded")])
    await sync(store, provider)
    await read_job_list(store, provider)
    changes = DatabaseChanges(store, Health(), {}, [], lambda _: {})
    month = 30 * 24
    await _hours_pass(sql, month)
    assert ["settling"] * 3 + ["sealed"] == await _poll_until(store, provider, sql, "sealed")
    await changes.reopen_sealed_jobs()
    assert "sealed" == await _phase(sql)
    assert 0 == await _poll(store, provider)
    await _hours_pass(sql, -month)
    await sql.execute("update checkpointd.polling set sealed_at = sealed_at + interval '30 d'")
    with capture_logs() as lines:
        await changes.reopen_sealed_jobs()
        await changes.reopen_sealed_jobs()
    assert [("database.jobs_reopened", 1)] == [(line["event"], line["jobs"]) for line in lines]
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    assert 1 == await _poll(store, provider)
    assert 2 == await sql.fetchval("select checkpoint_count from fine_tuning.jobs")
    assert 20 < (await _poll_until(store, provider, sql, "sealed")).count("settling") < 28


async def test_poll_during_which_the_clock_was_set_back(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """The last poll before a seal seals nothing if the clock was a month ahead at its start, but not at its end."""
    answer, reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.jobs = page([job(status="succeeded")])
    await sync(store, provider)
    await read_job_list(store, provider)
    month = 30 * 24
    await _hours_pass(sql, month)
    for _ in range(2):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 1)
    provider.checkpoints[JOB] = answer
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await poller.tick()
        await reached.wait()
        await _hours_pass(sql, -month)
        go_on.set()
    assert "settling" == await _phase(sql)


async def test_first_status_during_the_last_poll_prevents_the_seal(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """If the job list reports `running` during the poll that would seal a job, it is active and due at once."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await _hours_pass(sql, 97)
    for _ in range(3):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 24)
    answer, reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints[JOB] = answer
    provider.jobs = page([job(status="running")])
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await poller.tick()
        await reached.wait()
        await read_job_list(store, provider)
        go_on.set()
    assert ("active", True) == tuple(
        await sql.fetchrow("select phase, next_poll_at <= now() from fine_tuning.jobs, fine_tuning.freshness") or ()
    )


@pytest.mark.parametrize("by", ["resync", "status"])
async def test_sealed_job_is_reopened(store: Store, provider: Provider, sql: asyncpg.Connection, by: str) -> None:
    """A resync or a new status reopens a sealed job, and its next poll stores what has changed since."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.jobs = page([job(status="succeeded")])
    await track(store)
    await read_job_list(store, provider)
    await sync(store, provider)
    await sql.execute("update checkpointd.polling set sealed_at = now(), next_poll_at = 'infinity'")
    assert "sealed" == await _phase(sql)
    provider.checkpoints[JOB] = page([checkpoint(1, full_valid_loss=0.25)])
    if by == "resync":
        await store.resync(await store.find_jobs([JOB]))
    else:
        provider.jobs = page([job(status="running")])
        await read_job_list(store, provider)
    assert 1 == await _poll(store, provider)
    assert {"resync": "settling", "status": "active"}[by] == await _phase(sql)
    assert 0.25 == await sql.fetchval("select full_valid_loss from fine_tuning.checkpoints")


async def test_late_metric_while_settling_delays_the_seal(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A listing that differs is stored, even a day after the end, and the count of equal listings starts again."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.jobs = page([job(status="succeeded")])
    await track(store)
    await read_job_list(store, provider)
    for _ in range(4):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 7)
    provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.5)])  # an equal listing would seal the job now
    phases = []
    while "sealed" not in phases:
        assert 1 == await _poll(store, provider)
        phases.append(await _phase(sql))
        await _hours_pass(sql, 1)
    assert ["settling"] * 3 + ["sealed"] == phases
    assert 0.5 == await sql.fetchval("select valid_loss from fine_tuning.checkpoints")


async def test_failed_sync_leaves_a_sealed_job_sealed(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A failed `sync`, as after the provider has shut down, does not reopen a sealed job, nor count it as failing.

    No later poll would end the failures. Those after a resync count, because the job is polled again.
    """
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await sql.execute("update checkpointd.polling set sealed_at = now(), next_poll_at = 'infinity'")
    read = """select j.phase, f.next_poll_at is null, f.consecutive_failures, f.error_class
        from fine_tuning.jobs j join fine_tuning.freshness f on f.fine_tuning_job_id = j.id"""
    for answer, error_class in ((error(404), "missing"), (error(403), "forbidden"), (error(500), "server_error")):
        provider.checkpoints[JOB] = answer
        for _ in range(2):
            await sync(store, provider)
            assert ("sealed", True, 0, error_class) == tuple(await sql.fetchrow(read) or ())
    assert 3 == await sql.fetchval("select count(*) from fine_tuning.polls where error_class is not null")
    assert [0] == [row["failing"] for row in await count_by_source(store)]

    await store.resync(await store.find_jobs([JOB]))
    await sync(store, provider)
    assert ("active", False, 1, "server_error") == tuple(await sql.fetchrow(read) or ())


async def test_job_with_rejects_is_not_sealed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job with an unreadable item is never sealed: a later version may be able to read the item."""
    provider.jobs = page([job(status="succeeded")])
    provider.checkpoints[JOB] = page([checkpoint(1), "no object"])
    await track(store)
    await read_job_list(store, provider)
    for _ in range(6):
        assert 1 == await _poll(store, provider)
        await _hours_pass(sql, 24)
    assert "settling" == await _phase(sql)


async def test_unknown_job_is_missing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that the provider does not know is missing after the first poll, and gone after more than an hour.

    It is not gone if nothing else of its source could be read meanwhile.
    """
    provider.checkpoints["ftjob-other"] = page([])
    await sync(store, provider)
    assert "missing" == await _phase(sql)
    failed_for_long = "update checkpointd.polling set equal_failures = 4, failing_since = now() - interval '2 h'"
    await sql.execute(failed_for_long)
    await sync(store, provider)
    assert "missing" == await _phase(sql)
    await sql.execute(failed_for_long)
    await track(store, "ftjob-other")
    async with polling_one(store, provider) as (poller, _, _):
        for name in ("ftjob-other", JOB):
            await poller.poll_named(await store.find_jobs([name]))
    gap = await sql.fetchval(
        "select next_poll_at - last_attempt_at from fine_tuning.freshness where fine_tuning_job_id = $1", JOB
    )
    assert ("gone", 86400) == (await _phase(sql), gap.total_seconds())


async def test_untracked_job_is_not_polled(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An untracked job keeps its rows and is not polled, even after the clock went back; tracked again, it is due."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await store.untrack(await store.find_jobs([JOB]))
    await sql.execute("update checkpointd.polling set last_attempt_at = now() + interval '30 d'")
    assert 0 == await _poll(store, provider)
    row = await sql.fetchrow("select checkpoint_count, phase from fine_tuning.jobs")
    assert (1, "untracked") == tuple(row or ())
    await track(store)
    assert 1 == await _poll(store, provider)


async def _waited(store: Store) -> float:
    """Return for how many hours the only job has waited, as a poll is told that is claimed now."""
    (lease,) = await store.claim_named_jobs(await store.find_jobs([JOB]), {}, 60)
    await store.release([lease])
    return lease.waited_s / 3600


async def test_time_in_which_a_job_waits(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The hours for which a job is queued or paused, by the job list, are counted up to its next checkpoint."""
    provider.checkpoints[JOB] = page([])
    await track(store)

    async def pass_hours(hours: float, status: str) -> float:
        provider.jobs = page([job(status=status)])
        await read_job_list(store, provider)
        await _hours_pass(sql, hours)
        assert 1 == await _poll(store, provider)
        return await _waited(store)

    assert 2 == pytest.approx(await pass_hours(2, "queued"), abs=0.01)
    assert 2 == pytest.approx(await pass_hours(1, "running"), abs=0.01)
    assert 5 == pytest.approx(await pass_hours(3, "pausing"), abs=0.01)
    assert 6 == pytest.approx(await pass_hours(1, "paused"), abs=0.01)
    assert 6 == pytest.approx(await pass_hours(0.5, "running"), abs=0.01)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    assert 0 == pytest.approx(await pass_hours(1, "paused"), abs=0.01)
    first = await sql.fetchval("select first_arrival_s / 3600 from checkpointd.polling")
    assert 1 == pytest.approx(first, abs=1.1)  # it may have arrived during the last hour
    assert 4 == pytest.approx(await pass_hours(4, "paused"), abs=0.01)
    assert 4 == pytest.approx(await pass_hours(1, "running"), abs=0.01)
    provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
    assert 0 == pytest.approx(await pass_hours(1, "running"), abs=0.01)


async def _estimate(store: Store) -> float | None:
    """Return the seconds that the provider estimates for an epoch of the only job, as a poll is told them."""
    (lease,) = await store.claim_named_jobs(await store.find_jobs([JOB]), {}, 60)
    await store.release([lease])
    return lease.epoch_estimate_s


async def test_estimate_of_the_provider(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The estimated end of a job tells the seconds for each epoch, as it was before the first checkpoint."""
    provider.checkpoints[JOB] = page([])
    await track(store)
    await _hours_pass(sql, 1)

    async def read(hours: float, epochs: object, status: str = "running") -> float | None:
        finish = int(await sql.fetchval("select extract(epoch from now())") + 3600 * hours)
        hyperparameters = {"n_epochs": epochs}
        provider.jobs = page([job(status=status, estimated_finish=finish, hyperparameters=hyperparameters)])
        await read_job_list(store, provider)
        return await _estimate(store)

    assert await read(2, "auto") is None
    assert await read(2, 0) is None
    assert await read(-2, 3) is None
    assert 3600 == pytest.approx(await read(2, 3), abs=60)
    assert 3600 == pytest.approx(await read(2, 3, "paused"), abs=60)
    await _hours_pass(sql, 1)
    await read(2, 3)
    assert 3600 == pytest.approx(await read(3, 4), abs=60)  # four hours from the start, without the one of the pause
    provider.checkpoints[JOB] = page([checkpoint(1)])
    assert 1 == await _poll(store, provider)
    assert 3600 == pytest.approx(await read(9, 1), abs=60)
