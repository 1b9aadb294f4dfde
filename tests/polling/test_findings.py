"""What is found of jobs that are polled: recorded histories, a job that ends, and jobs that ended long ago."""

import time

import asyncpg
import pytest
from aiohttp import web

from checkpointd.polling.findings import find
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from checkpointd.simulator.replay import read_recorded
from checkpointd.telemetry.health import Health
from support.finding_histories import found
from support.harness import read_job_list, sync
from support.paths import RECORDED
from support.provider import JOB, Provider, body, checkpoint, job, page

RECORDED_IN_2025 = 1_748_022_600
EXPECTED = {
    "ftjob-72a2792ef7d24ba7b82c7fe4a37e379f": "finished",
    "ftjob-41e7d3a9b59541148bc5514c3b74e616": "finished overfitting",  # full_valid_loss is seven percent above its best
    "ftjob-j6mDj7MYs1O9bp3D1oPw3rIk": "finished",
    "ftjob-hQpExgNbOsnnOV4DLZn1SDUk": "finished",
}
"""What is found of each recorded job if it ends now."""

LOSSES = ((0.9, 1.1), (0.7, 0.9), (0.5, 1.2))


def _listing(steps: int) -> web.Response:
    """Return a list of checkpoints with LOSSES, of which the validation loss of the third one is higher."""
    points = enumerate(LOSSES[:steps], 1)
    return page([checkpoint(step, train_loss=train, full_valid_loss=valid) for step, (train, valid) in points])


async def test_recorded_histories(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Of the recorded jobs, the table says what is found if they end now. If they ended long ago, nothing is."""
    recorded, _ = read_recorded(RECORDED)
    assert EXPECTED.keys() == recorded.keys()
    provider.checkpoints = {of: body(listing) for of, listing in recorded.items()}
    await sync(store, provider, *recorded)
    provider.jobs = page([job(of, "succeeded", finished_at=RECORDED_IN_2025) for of in recorded])
    await read_job_list(store, provider)
    await sync(store, provider, *recorded)
    await evaluate_findings(store)
    assert {} == await found(sql)
    provider.jobs = page([job(of, "succeeded", finished_at=int(time.time())) for of in recorded])
    await read_job_list(store, provider)
    await sql.execute("update checkpointd.finding_cursor set seq = 0")
    await evaluate_findings(store, 0)
    assert EXPECTED == await found(sql)


async def test_the_last_listing_is_waited_for(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that ended is found when its checkpoints were read since. Late metrics then change what to deploy."""
    provider.checkpoints[JOB], provider.jobs = _listing(2), page([job()])
    await sync(store, provider)
    await read_job_list(store, provider)
    provider.jobs = page([job(status="succeeded", finished_at=int(time.time()))])
    await read_job_list(store, provider)
    await evaluate_findings(store, 0)
    assert {} == await found(sql)
    assert [] == await sql.fetch("table fine_tuning.findings")
    provider.checkpoints[JOB] = page([checkpoint(3, train_loss=0.5), *(checkpoint(n) for n in (2, 1))])
    await sync(store, provider)
    await evaluate_findings(store, 0)
    assert {JOB: "finished"} == await found(sql)
    deployed = "select checkpoint_id, value from fine_tuning.findings where kind = 'finished'"
    assert ("ftckpt_0002", 0.9) == tuple(await sql.fetchrow(deployed) or ())
    provider.checkpoints[JOB] = page([checkpoint(3, train_loss=0.5, full_valid_loss=0.8)])
    await sync(store, provider)
    await evaluate_findings(store, 0)
    assert ("ftckpt_0003", 0.8) == tuple(await sql.fetchrow(deployed) or ())
    feed = await sql.fetch("select kind, field, checkpoint_id, new_value from fine_tuning.changes where finding_id > 0")
    assert [("fired", "finished", "ftckpt_0002")] == [tuple(row)[:3] for row in feed]
    assert "Deploy step 2" in feed[0]["new_value"]


async def test_old_jobs(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Jobs that ended last year fire nothing when they are discovered, whatever their checkpoints look like."""
    jobs = [f"ftjob-{number}" for number in range(20)]
    ended = int(time.time()) - 365 * 86400
    provider.jobs = page([job(of, ("succeeded", "failed", "cancelled")[n % 3], finished_at=ended)
        for n, of in enumerate(jobs)])  # fmt: skip
    for of in jobs:
        items = [
            checkpoint(n, of, train_loss=train, full_valid_loss=valid) for n, (train, valid) in enumerate(LOSSES, 1)
        ]
        provider.checkpoints[of] = page([*items, {}])
    await read_job_list(store, provider, discover=True)
    await sync(store, provider, *jobs)
    await evaluate_findings(store, 0)
    assert ([], []) == await evaluate_findings(store, 0)
    assert 60 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert [] == await sql.fetch("table checkpointd.findings")


async def test_a_loss_that_is_not_a_number(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """NaN in the newest checkpoint is divergence. It is resolved when the value is known."""
    text = '{{"object": "list", "has_more": false, "data": [{}]}}'
    item = (
        '{{"object": "fine_tuning.job.checkpoint", "id": "ftckpt_1", "created_at": {}, "step_number": 10,'
        ' "fine_tuned_model_checkpoint": "ft:x", "metrics": {{"step": 10, "train_loss": {}}}}}'
    )
    for loss, expected in (("NaN", {JOB: "diverging"}), ("0.5", {})):
        provider.checkpoints[JOB] = body(text.format(item.format(int(time.time()), loss)))
        await sync(store, provider)
        await evaluate_findings(store, 0, 0)
        assert expected == await found(sql)


async def test_a_failed_job_and_a_refused_key(
    store: Store, provider: Provider, sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has each finding once, with the provider's error."""
    provider.checkpoints[JOB], provider.jobs = _listing(1), page([job()])
    await sync(store, provider)
    await read_job_list(store, provider)
    provider.jobs = page([job(status="failed", error={"code": "invalid", "message": "line 3", "param": None})])
    await read_job_list(store, provider)
    await find(store, Health())
    await find(store, Health())
    assert "The job failed: invalid: line 3" == await sql.fetchval("select message from fine_tuning.findings")
    assert 1 == capsys.readouterr().out.count("finding.fired")


async def test_an_unavailable_database(store: Store, sql: asyncpg.Connection) -> None:
    """A failed evaluation is a problem of the process until one succeeds."""
    health = Health()
    await sql.execute("alter table checkpointd.finding_cursor rename to other")
    await find(store, health)
    assert health.problems()
    await sql.execute("alter table checkpointd.other rename to finding_cursor")
    await find(store, health)
    assert [] == health.problems()
