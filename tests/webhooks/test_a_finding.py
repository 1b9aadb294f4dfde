"""A finding on its way from a provider to a receiver, through a daemon as a process."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook

from checkpointd.simulator.server import serve
from checkpointd.simulator.world import World
from support.harness import until_true
from support.receiver import SECRET, Receiver
from support.verbs import checkpointd, environment, running

START = 1_767_225_600.0
DAY_LATER = START + 86400


@pytest.mark.slow
async def test_a_job_that_ends(url: str, sql: asyncpg.Connection, receiver: Receiver, tmp_path: Path) -> None:
    """`run` polls a job that ends, finds that it finished, and tells the receiver of this once, with a signature."""
    world = World(3, 12, START)
    ended = (job for job in world.jobs(DAY_LATER) if job["status"] == "succeeded" and job["created_at"] > START)
    job = next(job["id"] for job in ended if len(world.checkpoints(job["id"], DAY_LATER)) > 4)
    now = [world.job(job, DAY_LATER)["created_at"] + 1.0]
    config = tmp_path / "checkpointd.toml"
    table = f"[[webhooks]]\nname = 'hook'\nurl = '{receiver.url}'\nsecret = 'WEBHOOK_SECRET'\nevents = ['finished']\n"
    config.write_text(table)
    async with serve(world, lambda: now[0]) as api:
        given = {"MIN_POLL_SECONDS": "0.1", "MAX_POLL_SECONDS": "0.2", "JOB_LIST_SECONDS": "0.1"}
        settings = {f"CHECKPOINTD_{name}": value for name, value in given.items()}
        env = environment(tmp_path, url, api, CHECKPOINTD_CONFIG=str(config), WEBHOOK_SECRET=SECRET, **settings)
        await checkpointd("track", job, env=env)
        async with running("run", env=env) as daemon:
            await until_true(sql, "select status is not null from fine_tuning.jobs")
            await until_true(sql, "select exists (select from checkpointd.webhooks)")
            now[0] = DAY_LATER
            await until_true(sql, "select status = 'succeeded' from fine_tuning.jobs")
            # The next evaluation is due now, not in 15 s.
            await sql.execute("update checkpointd.finding_cursor set evaluated_at = now() - interval '15 s'")
            await until_true(sql, "select delivered > 0 from checkpointd.webhooks")
            all_is_read = "select cursor = max(seq) from checkpointd.webhooks, checkpointd.changes group by cursor"
            await until_true(sql, all_is_read)
            daemon.terminate()
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
    (request,) = receiver.received
    assert request.message == Webhook(SECRET).verify(request.body, request.headers)
    assert ("finding.fired", job) == (request.message["type"], request.message["data"]["fine_tuning_job_id"])
    finding = request.message["data"]["finding"]
    assert "finished" == finding["kind"]
    assert finding["message"].startswith("The job ended (succeeded). Deploy step ")
    assert finding["checkpoint_id"] in {checkpoint["id"] for checkpoint in world.checkpoints(job, DAY_LATER)}
