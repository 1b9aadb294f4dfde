"""Daemons that are killed while they read events lose none of them."""

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest

from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.world import EPOCH, World
from support.verbs import environment, running

COMPLETE = "select count(*) = 4 from fine_tuning.event_lists where is_complete"


@pytest.mark.slow
async def test_killed_daemons_store_every_event(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Two daemons at a time, killed at any moment while jobs run and end, have stored every event, once, at the end."""
    world, rng = World(4, 4, EPOCH, Shape(reinforcement=0.3)), random.Random(3)
    async with serve(world, accelerated(400, EPOCH)) as api:
        often = {f"CHECKPOINTD_{name}_SECONDS": "0.1" for name in ("MIN_POLL", "MAX_POLL", "JOB_LIST", "EVENTS")}
        env = environment(tmp_path, url, api, **often, CHECKPOINTD_LEASE_SECONDS="5", CHECKPOINTD_DISCOVER="true")
        for _ in range(6):
            async with running("run", env=env) as one, running("run", env=env) as other:
                await asyncio.sleep(rng.uniform(0.5, 2.0))  # the moment of the kill, in life as here, awaits nothing
                one.kill()
                other.kill()
        async with running("run", env=env) as daemon, asyncio.timeout(240):
            while not await sql.fetchval(COMPLETE):  # noqa: ASYNC110  # the daemon is another process
                await asyncio.sleep(0.2)
            daemon.terminate()
            await daemon.wait()
    after_all = EPOCH + 86_400
    events = [event for job in world.jobs(after_all) for event in world.events(job["id"], after_all)]
    steps = await sql.fetch("select event_id, train_loss, total_steps from fine_tuning.steps")
    messages = await sql.fetch("select id, message from fine_tuning.events")
    data = {event["id"]: event["data"] for event in events if event["type"] == "metrics"}
    assert {key: (of.get("train_loss"), of["total_steps"]) for key, of in data.items()} == {
        row["event_id"]: (row["train_loss"], row["total_steps"]) for row in steps
    }
    assert {(event["id"], event["message"]) for event in events if event["type"] == "message"} == set(
        map(tuple, messages)
    )
    assert len(data) == len(steps)
