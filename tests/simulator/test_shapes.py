"""Every shape of the simulated provider, as a client reads it and as the daemon's own code syncs it."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from checkpointd.cli.sync import sync_jobs
from checkpointd.postgres.store import Store
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.world import World
from support.verbs import checkpointd, environment, running

START = 1_767_225_600.0
AFTER_ALL = START + 86_400
SHAPES = {
    "openai": Shape(),
    "azure": Shape("azure"),
    "compatible": Shape("compatible"),
    "at once": Shape(publication="at-once"),
    "at the end": Shape(publication="at-end"),
    "ascending": Shape(order="ascending"),
    "all, in pages": Shape(retention="all", per_epoch=4),
    "azure, legacy": Shape("azure", "at-end", "ascending", "all"),
}


def _settings(name: str, url: str, shape: Shape, folder: Path) -> FixedSettings:
    """Return settings with this provider as the only source."""
    (folder / "key").write_text("simulated")
    legacy = name == "azure, legacy"
    source = Source(
        name="test", kind=shape.kind, base_url=url.removesuffix("/v1") if legacy else url, api_key=str(folder / "key"),
        query={"api-version": "2024-10-21"} if legacy else {},
    )  # fmt: skip
    return FixedSettings(sources=(source,), discover=shape.kind != "compatible", page_size=7)


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("name", SHAPES)
async def test_sync(name: str, store: Store, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """After a sync every half hour, PostgreSQL has everything that was ever listed, as last listed, and each status."""
    shape = SHAPES[name]
    world = World(1, 6, START, shape)
    now, listed, statuses = START, dict[str, dict[str, Any]](), dict[str, list[str]]()
    recent: list[set[str]] = []
    async with serve(world, lambda: now) as url:
        settings = _settings(name, url, shape, tmp_path)
        fields_by_source = {source.name: source.request_fields() for source in settings.sources}
        keys = await store.register_sources({"test": shape.kind})
        for now in [*range(int(START), int(START) + 5 * 3600, 1800), AFTER_ALL, AFTER_ALL + 1]:
            jobs = world.jobs(now)
            if shape.kind == "compatible":
                await store.track(keys["test"], [job["id"] for job in jobs])
            done = await sync_jobs(settings, store, fields_by_source, None, None, lambda *_: None)
            assert (len(jobs), []) == (done.jobs, done.failures)
            items = [item for job in jobs for item in world.checkpoints(job["id"], now)[: shape.listed]]
            listed |= {item["id"]: item for item in items}
            recent = [*recent[-1:], {item["id"] for item in items}]
            for job in jobs:
                statuses.setdefault(job["id"], []).append(job["status"])
    rows = await sql.fetch("select * from fine_tuning.checkpoints")
    assert listed.keys() == {row["id"] for row in rows}
    for row in rows:
        item = listed[row["id"]]
        assert item["fine_tuned_model_checkpoint"] == row["fine_tuned_model_checkpoint"]
        assert item["metrics"].items() <= dict(row).items()
        assert (row["id"] in set.union(*recent)) == (row["missing_since"] is None)
    changes = await sql.fetch("select * from fine_tuning.changes where kind = 'status' order by seq")
    stored: dict[str, list[str]] = {}
    for row in changes:
        stored.setdefault(row["fine_tuning_job_id"], []).append(row["new_value"])
    moved = {job: [seen[0], *(new for old, new in pairwise(seen) if new != old)] for job, seen in statuses.items()}
    assert stored == ({} if shape.kind == "compatible" else moved)


def test_one_world_in_every_shape() -> None:
    """Publication, order and retention change no job and no checkpoint, but only when they are visible."""
    worlds = [
        World(3, 20, START, shape) for shape in SHAPES.values() if shape.kind == "openai" and shape.per_epoch == 1
    ]
    ends = [[world.checkpoints(job["id"], AFTER_ALL) for job in world.jobs(AFTER_ALL)] for world in worlds]
    assert all(worlds[0].jobs(AFTER_ALL) == world.jobs(AFTER_ALL) for world in worlds)
    assert all(ends[0] == end for end in ends)


def test_publication() -> None:
    """At once: each checkpoint is listed, complete, when it is made. At the end: all are listed after the job."""
    at_once, at_end = (World(3, 20, START, Shape(publication=when)) for when in ("at-once", "at-end"))
    for job in at_once.jobs(AFTER_ALL):
        every = at_once.checkpoints(job["id"], AFTER_ALL)
        for item in every:
            assert item in at_once.checkpoints(job["id"], item["created_at"] + 1)
        assert [] == at_end.checkpoints(job["id"], job["finished_at"])
        assert every == at_end.checkpoints(job["id"], job["finished_at"] + 3)


async def _get(base: str, path: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as client, client.get(base + path, headers=headers) as response:
        return response.status, await response.json()


async def test_order_and_retention() -> None:
    """In ascending order the last three epochs are listed, too, and a cursor that left the list leads to them."""
    world = World(3, 3, START, Shape(order="ascending", per_epoch=2))
    job = world.jobs(AFTER_ALL)[0]["id"]
    newest = [item["id"] for item in world.checkpoints(job, AFTER_ALL)]
    key = {"Authorization": "Bearer any"}
    async with serve(world, lambda: AFTER_ALL) as url:
        _, page = await _get(url, f"/fine_tuning/jobs/{job}/checkpoints", **key)
        assert newest[:6][::-1] == [item["id"] for item in page["data"]]
        assert (newest[5], newest[0], False) == (page["first_id"], page["last_id"], page["has_more"])
        _, page = await _get(url, f"/fine_tuning/jobs/{job}/checkpoints?limit=2&after={newest[-1]}", **key)
        assert (newest[5:3:-1], True) == ([item["id"] for item in page["data"]], page["has_more"])


async def test_azure() -> None:
    """Azure has its own ids, list objects, key and errors, and its older path requires a version."""
    world = World(3, 6, START, Shape("azure"))
    job = next(job for job in world.jobs(AFTER_ALL) if job["status"] == "succeeded")
    assert job["organization_id"] is None
    key = {"api-key": "any"}
    async with serve(world, lambda: AFTER_ALL) as url:
        assert url.endswith("/openai/v1")
        path = f"/fine_tuning/jobs/{job['id']}/checkpoints"
        status, page = await _get(url, path, **key)
        assert (200, {"object", "data", "has_more"}) == (status, page.keys())
        final, before = page["data"][:2]
        assert final["id"].startswith("ftchkpt-")
        hexadecimal = job["id"].removeprefix("ftjob-")
        assert (f"{job['model']}.ft-{hexadecimal}", 32) == (job["fine_tuned_model"], len(hexadecimal))
        assert job["fine_tuned_model"] == final["fine_tuned_model_checkpoint"]
        assert f"{job['fine_tuned_model']}:ckpt-step-{before['step_number']}" == before["fine_tuned_model_checkpoint"]

        older = url.removesuffix("/v1")
        assert (200, page) == await _get(older, f"{path}?api-version=2024-10-21", **key)
        refused = {
            "no key": await _get(url, path, Authorization="Bearer any"),
            "no version": await _get(older, path, **key),
            "no such job": await _get(url, "/fine_tuning/jobs/ftjob-unknown", **key),
            "no such cursor": await _get(url, f"{path}?after=ftchkpt-unknown", **key),
        }
    errors = {name: (status, body["error"].pop("message") != "", body) for name, (status, body) in refused.items()}
    assert errors == {
        "no key": (401, True, {"error": {"code": "401"}}),
        "no version": (404, True, {"error": {"code": "404"}}),
        "no such job": (404, True, {"error": {"code": "notFound"}}),
        "no such cursor": (400, True, {"error": {"code": "invalidPayload", "innererror": {"code": "invalidPayload"}}}),
    }


def test_azure_statuses() -> None:
    """Azure's jobs go through its statuses. No checkpoint is made during a pause, and some are made after it."""
    world = World(3, 20, START, Shape("azure", "at-once"))
    seen: dict[str, list[tuple[float, str]]] = {}
    for t in range(int(START) - 3600, int(START) + 5 * 3600, 10):
        for job in world.jobs(t):
            history = seen.setdefault(job["id"], [])
            if not history or history[-1][1] != job["status"]:
                history.append((t, job["status"]))
                assert (job["status"] == "running") == (job["estimated_finish"] is not None)
    statuses = {job_id: tuple(status for _, status in history) for job_id, history in seen.items()}
    with_pause = ("created", "pending", "running", "pausing", "paused", "resuming", "running", "succeeded")
    assert {with_pause, ("created", "pending", "running", "succeeded")} <= set(statuses.values())
    for job_id in (job_id for job_id, sequence in statuses.items() if sequence == with_pause):
        start, end = (next(t for t, status in seen[job_id] if status == name) for name in ("paused", "resuming"))
        made = [item["created_at"] for item in world.checkpoints(job_id, AFTER_ALL)]
        assert not [t for t in made if start <= t < end]
        assert any(t > end for t in made)


async def test_compatible() -> None:
    """A compatible provider answers 404 for the job list, and everything else as OpenAI."""
    world = World(3, 3, START, Shape("compatible"))
    job = world.jobs(AFTER_ALL)[0]
    key = {"Authorization": "Bearer any"}
    async with serve(world, lambda: AFTER_ALL) as url:
        status, body = await _get(url, "/fine_tuning/jobs", **key)
        assert (404, "invalid_request_error") == (status, body["error"]["type"])
        assert (200, job) == await _get(url, f"/fine_tuning/jobs/{job['id']}", **key)
        status, page = await _get(url, f"/fine_tuning/jobs/{job['id']}/checkpoints", **key)
        assert (200, world.checkpoints(job["id"], AFTER_ALL)[:3]) == (status, page["data"])


@pytest.mark.parametrize("kind", ["azure", "compatible"])
async def test_command(kind: str, url: str, tmp_path: Path) -> None:
    """`simulate` prints a settings file for the kind of provider, with which the other commands reach it."""
    config = tmp_path / "simulated.toml"
    env = environment(tmp_path, url, SIMULATED_KEY="any", CHECKPOINTD_CONFIG=str(config), CHECKPOINTD_DISCOVER="true")
    options = ["--kind", kind, "--publish", "at-once", "--order", "ascending", "--retain", "all", "--per-epoch", "2"]
    async with running("simulate", "--port", "0", "--jobs", "5", *options, env=env) as provider:
        assert provider.stdout is not None
        printed = [(await asyncio.wait_for(provider.stdout.readline(), 60)).decode() for _ in range(6)]
        if kind == "compatible":
            printed.append((await asyncio.wait_for(provider.stdout.readline(), 60)).decode())
        config.write_text("".join(printed))
        if kind == "compatible":
            ids = printed[-1].partition("checkpointd track ")[2].split()
            assert 0 == (await checkpointd("track", *ids, env=env)).code
        ended = await checkpointd("sync", env=env)
        assert (0, "") == (ended.code, ended.err)
        jobs, new = _counts(ended.out)
        assert 1 <= jobs <= 5
        assert new > 6
        provider.terminate()
        assert 0 == await asyncio.wait_for(provider.wait(), 60)


def _counts(output: str) -> tuple[int, int]:
    """Return the numbers of jobs and new checkpoints that a sync prints."""
    words = output.split()
    return int(words[0]), int(words[2])
