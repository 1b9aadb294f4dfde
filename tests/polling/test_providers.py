"""With the documented settings of each provider, the real daemon follows all jobs from their start until sealed."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from checkpointd.domain.checkpoint import METRICS
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.service import daemon
from checkpointd.service.signals import Stop
from checkpointd.settings.load import load
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from support.documents import Document
from support.harness import until_true

AFTER_ALL = EPOCH + 86_400
SECTIONS: Mapping[Kind, str] = {
    "azure": "Azure OpenAI",
    "bedrock": "Amazon Bedrock",
    "nebius": "Nebius",
    "coreweave": "CoreWeave and W&B",
}
"""The section of config/README.md of each kind."""

OFTEN = {"min_poll_seconds": 0.05, "max_poll_seconds": 0.1, "job_list_seconds": 0.1, "events_seconds": 0.1}
SOON = {"settle_seconds": 0.0, "assume_ended_seconds": 3.0}
"""A job without a status counts as ended after so many seconds without news. That is more than an epoch takes here."""
SEALED = "select count(*) = $1 and bool_and(phase = 'sealed') from fine_tuning.jobs"


def _checkpoint(kind: Kind, job: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that an item must lead to. `item` is in OpenAI's format."""
    if kind == "coreweave":
        metrics = {name: value for name, value in item["metrics"].items() if name != "step"}
        item = {**item, "created_at": None, "fine_tuned_model_checkpoint": None, "metrics": metrics}
    model = item["fine_tuned_model_checkpoint"]
    return {
        "id": item["id"],
        "fine_tuning_job_id": job,
        "step_number": item["step_number"],
        "created_at": item["created_at"],
        "fine_tuned_model_checkpoint": model,
        "deploy_as": f"{job}:{item['id']}" if kind == "nebius" else model,
        "metrics": item["metrics"],
    }


def _step(job: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that an event with metrics must lead to."""
    numbers = {name: value for name, value in event["data"].items() if isinstance(value, int | float)}
    total_steps = numbers.pop("total_steps", None)
    return {
        "fine_tuning_job_id": job, "step_number": numbers["step"], "total_steps": total_steps, "metrics": numbers
    }  # fmt: skip


def _metrics(row: asyncpg.Record) -> dict[str, float]:
    """Return the metrics of a row that are not null."""
    named = {name: row[name] for name in METRICS if row[name] is not None}
    return named | json.loads(row["extra_metrics"] or "{}")


@pytest.mark.parametrize("kind", SECTIONS)
async def test_documented_settings(
    kind: Kind, url: str, store: Store, sql: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every checkpoint, step and status of each job is stored, value by value, until all jobs are sealed.

    The settings are those of the document. Only the address of the provider is another.
    """
    (block,) = Document("config/README.md").blocks("toml", SECTIONS[kind])
    (tmp_path / "checkpointd.toml").write_text(block)
    monkeypatch.setenv(f"{kind}_key", "canary-key")
    settings = load(tmp_path / "checkpointd.toml")
    (source,) = settings.sources
    world = World(4, 2, EPOCH, Shape(kind, retention="all"))
    async with serve(world, accelerated(2000, EPOCH)) as api, asyncio.timeout(300):
        if not KINDS[kind].lists_jobs:
            keys = await store.register_sources({source.name: kind})
            await store.track(keys[source.name], [job["id"] for job in world.jobs(AFTER_ALL)])
        more = {"sources": (source.model_copy(update={"base_url": api}),), "http_port": 0}
        settings = settings.model_copy(update={**OFTEN, **SOON, **more, "discover": True})
        fields = {source.name: source.request_fields()}
        stop = Stop()
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.run(settings, lambda: connect(url), fields, migrate=False, stop=stop))
            await until_true(sql, SEALED, len(world.jobs(AFTER_ALL)))
            stop.asked.set()
    jobs = {job["id"]: job for job in world.jobs(AFTER_ALL)}
    if KINDS[kind].lists_jobs:
        await _assert_job_records(sql, jobs)
    expected = [_checkpoint(kind, job, item) for job in jobs for item in world.checkpoints(job, AFTER_ALL)]
    rows = await sql.fetch("select *, extract(epoch from created_at)::bigint as unix_time from fine_tuning.checkpoints")
    found = [{**row, "created_at": row["unix_time"], "metrics": _metrics(row)} for row in rows]
    _assert_same(expected, found, "id")
    metrics = [(job, event) for job in jobs for event in world.events(job, AFTER_ALL) if event["type"] == "metrics"]
    steps = [_step(job, event) for job, event in metrics] if PRESETS[kind].format.events else []
    rows = await sql.fetch("select * from fine_tuning.steps")
    _assert_same(steps, [{**row, "metrics": _metrics(row)} for row in rows], "step_number")


async def _assert_job_records(sql: asyncpg.Connection, jobs: Mapping[str, Any]) -> None:
    """Assert that the view has what the job list says about each job."""
    stored = await sql.fetch("select fine_tuning_job_id, status, fine_tuned_model from fine_tuning.jobs")
    assert {(job["id"], job["status"], job["fine_tuned_model"]) for job in jobs.values()} == {
        tuple(row) for row in stored
    }


def _assert_same(expected: list[dict[str, Any]], found: list[dict[str, Any]], key: str) -> None:
    """Assert that the rows of a view have the expected values, by job and `key`."""
    names = expected[0].keys() if expected else ()
    by_key = {(row["fine_tuning_job_id"], row[key]): {name: row[name] for name in names} for row in found}
    assert {(row["fine_tuning_job_id"], row[key]): row for row in expected} == by_key
