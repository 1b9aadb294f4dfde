"""The events of simulated jobs, followed from before their start to their seal, are those that the provider listed."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.domain.event import STEP_METRICS
from checkpointd.polling.events import EventLists
from checkpointd.polling.job_list import JobList
from checkpointd.postgres.store import Store
from checkpointd.simulator.server import serve_application, world_application
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from checkpointd.telemetry.health import Health
from support.harness import open_source, polling_one, tick
from support.provider import error

AFTER_ALL = EPOCH + 86_400
COLUMNS = ", ".join(STEP_METRICS)


class Played:
    """A served world whose clock the test sets, and which fails a share of the requests for events."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.now = EPOCH
        self.failing = 0.0
        self.url = ""
        self._rng = random.Random(seed)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Played"]:
        """Serve it while the context is open."""

        @web.middleware
        async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/events") and self._rng.random() < self.failing:
                return error(500, x_should_retry="false")
            return await handler(request)

        application = world_application(self.world, lambda: self.now)
        application.middlewares.insert(0, fail)
        async with serve_application(self.world.shape.kind, application, "127.0.0.1", 0) as self.url:
            yield self


def _expected(world: World, job: str) -> tuple[dict[int, Mapping[str, Any]], set[tuple[str, str, str]]]:
    """Return the data of each step, and the id, level and message of each message, that the provider ever lists."""
    events = world.events(job, AFTER_ALL)
    data = {event["data"]["step"]: event["data"] for event in events if event["type"] == "metrics"}
    return data, {(event["id"], event["level"], event["message"]) for event in events if event["type"] == "message"}


async def _stored(sql: asyncpg.Connection, job: str) -> dict[int, dict[str, Any]]:
    """Return the numbers of each stored step by name, without nulls."""
    rows = await sql.fetch(
        f"select step_number, total_steps, extra_metrics, {COLUMNS} from fine_tuning.steps"
        " where fine_tuning_job_id = $1",
        job,
    )
    stored = {}
    for row in rows:
        values = {name: row[name] for name in ("total_steps", *STEP_METRICS) if row[name] is not None}
        stored[row["step_number"]] = {"step": row["step_number"], **values, **json.loads(row["extra_metrics"] or "{}")}
    return stored


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("kind", ["openai", "azure", "bedrock"])
async def test_every_listed_step_is_stored(kind: Kind, store: Store, sql: asyncpg.Connection) -> None:
    """Whatever fails and however often the daemon is killed: all steps and messages are stored, row by row, once."""
    world = World(4, 3, EPOCH, Shape(kind, reinforcement=0.5))
    played, rng = Played(world, 1), random.Random(2)
    provider: Any = played  # it has a URL
    header = "api-key" if kind == "azure" else "Authorization"
    async with played.serve():
        await store.register_sources({"test": "openai"})
        for now in [*range(int(EPOCH), int(EPOCH) + 9000, 600), int(AFTER_ALL)]:
            played.now, played.failing = now, 0.2 if now < AFTER_ALL else 0.0
            for _ in range(3):
                async with open_source(store, provider, key_header=header) as source:
                    events = EventLists(store, source, Health(), gap=300, lease_seconds=60)
                    jobs = JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=10)
                    await jobs.tick(due_or_not=True)
                    await sql.execute("update checkpointd.event_lists set due_at = attempt_at, lease_expires_at = null")
                    task = asyncio.ensure_future(events.tick())
                    if now < AFTER_ALL and rng.random() < 0.5:
                        await asyncio.wait([task], timeout=rng.random() * 0.05)
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
    ids = [job["id"] for job in world.jobs(AFTER_ALL)]
    assert 3 == len(ids)
    for job in ids:
        steps, messages = _expected(world, job)
        numbers = {
            step: {name: value for name, value in data.items() if isinstance(value, int | float)}
            for step, data in steps.items()
        }
        assert numbers == await _stored(sql, job)
        rows = await sql.fetch("select id, level, message from fine_tuning.events where fine_tuning_job_id = $1", job)
        assert messages == {tuple(row) for row in rows}
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.earlier_steps")
    assert [True] * 3 == [row[0] for row in await sql.fetch("select is_complete from fine_tuning.event_lists")]


async def test_rewards_that_only_events_have(store: Store, sql: asyncpg.Connection) -> None:
    """If checkpoints have no metrics, the best step is that with the largest reward, and a checkpoint is near it."""
    world = World(1, 1, EPOCH, Shape("bedrock", bare_checkpoints=True))
    played = Played(world, 1)
    played.now = AFTER_ALL
    provider: Any = played  # it has a URL
    async with played.serve(), polling_one(store, provider) as (poller, source, _):
        await JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=10).tick(due_or_not=True)
        await tick(poller)
        await EventLists(store, source, Health(), gap=300, lease_seconds=60).tick()
    (job,) = [record["id"] for record in world.jobs(AFTER_ALL)]
    steps, _ = _expected(world, job)
    reward = max(data["critic_rewards_mean"] for data in steps.values())
    row = await sql.fetchrow("select * from fine_tuning.best_steps")
    assert ("critic_rewards_mean", "maximize", reward) == (row["metric"], row["direction"], row["value"])
    assert reward == steps[row["step_number"]]["critic_rewards_mean"]
    (rule,) = await sql.fetchrow("select rule from fine_tuning.best_checkpoints")
    listed = [row["step_number"] for row in await sql.fetch("select step_number from fine_tuning.checkpoints")]
    assert (None, min(abs(step - row["step_number"]) for step in listed)) == (rule, row["distance_steps"])
    assert row["deploy_as"] is not None
