"""With the documented settings of each provider, the real daemon follows all jobs from their start until sealed."""

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from checkpointd.domain.checkpoint import METRICS
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.formats.together import HYPERPARAMETERS
from checkpointd.service import daemon
from checkpointd.service.signals import Stop
from checkpointd.settings.load import load
from checkpointd.simulator import foundry, tinker, together
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from model.replay import Feed
from support.documents import Document
from support.harness import until_true

AFTER_ALL = EPOCH + 86_400
SECTIONS: Mapping[Kind, str] = {
    "openai": "OpenAI",
    "together": "Together",
    "azure": "Azure OpenAI",
    "bedrock": "Amazon Bedrock",
    "nebius": "Nebius",
    "compatible": "Other providers with OpenAI's API",
    "coreweave": "CoreWeave and W&B",
    "tinker": "Tinker",
    "foundry": "Microsoft Foundry",
}
"""The section of config/README.md of each kind."""

OFTEN = {"min_poll_seconds": 0.05, "max_poll_seconds": 0.1, "job_list_seconds": 0.1, "events_seconds": 0.1}
SOON = {"settle_seconds": 0.0, "assume_ended_seconds": 3.0}
"""A job without a status counts as ended after so many seconds without news. That is more than an epoch takes here."""
FEED = """
    select * from fine_tuning.changes where checkpoint_id is not null and fine_tuning_job_id = $1 order by seq"""
SEALED = "select count(*) = $1 and bool_and(phase = 'sealed') from fine_tuning.jobs"


def _checkpoints(kind: Kind, item: dict[str, Any], job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the view that a record of the simulated world must lead to. `job` is that of its job."""
    model, job_id = item["fine_tuned_model_checkpoint"], item["fine_tuning_job_id"]
    row = {
        "id": item["id"],
        "fine_tuning_job_id": job_id,
        "step_number": item["step_number"],
        "created_at": item["created_at"],
        "fine_tuned_model_checkpoint": model,
        "deploy_as": f"{job_id}:{item['id']}" if kind == "nebius" else model,
        "checkpoint_type": None,
        "expires_at": None,
        "size_bytes": None,
        "is_final": job["fine_tuned_model"] == model,
        "metrics": item["metrics"],
    }
    no_model = {"fine_tuned_model_checkpoint": None, "deploy_as": None, "is_final": None}
    if kind == "coreweave":
        metrics = {name: value for name, value in item["metrics"].items() if name != "step"}
        return [{**row, **no_model, "created_at": None, "metrics": metrics}]
    if kind == "together":
        return [
            {
                **row, **no_model, "id": sent["path"], "metrics": {}, "deploy_as": sent["object_name"],
                "checkpoint_type": sent["checkpoint_type"],
            }
            for sent in together.checkpoints(item, job)
        ]  # fmt: skip
    if kind == "tinker":
        return [
            {
                **row, **no_model, "id": sent["checkpoint_id"], "step_number": None, "metrics": {},
                "deploy_as": sent["tinker_path"], "checkpoint_type": sent["checkpoint_type"],
                "expires_at": sent["expires_at"] and datetime.fromisoformat(sent["expires_at"]),
                "size_bytes": sent["size_bytes"],
            }
            for sent in tinker.checkpoints(item)
        ]  # fmt: skip
    if kind == "foundry":
        return [
            {
                **row, **no_model, "id": sent["checkpoint_id"], "step_number": None, "metrics": {},
                "checkpoint_type": sent["checkpoint_type"],
            }
            for sent in foundry.checkpoints(item)
        ]  # fmt: skip
    return [row]


JOB_TIMES = ("created_at", "finished_at")
JOB_DOCUMENTS = ("hyperparameters", "error", "metadata")
JOB_VALUES = ("id", "status", "model", "fine_tuned_model", "trained_tokens", *JOB_TIMES, *JOB_DOCUMENTS)
"""Columns of the view `jobs`: those with a time, those with JSON, and all that the record of a job leads to."""


def _job(kind: Kind, job: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that the record of a job must lead to."""
    if kind == "tinker":
        stated = {"id": job["id"], "model": job["model"], "metadata": job["metadata"]}
        return dict.fromkeys(JOB_VALUES) | stated
    if kind == "foundry":
        sent = foundry.session(job, AFTER_ALL)
        stated = {"id": sent["session_id"], "model": sent["base_model"], "status": sent["status"]}
        return dict.fromkeys(JOB_VALUES) | stated
    if kind == "together":
        sent = together.job(job)
        names = {"fine_tuned_model": "model_output_name", "trained_tokens": "token_count"}
        hyperparameters = {name: sent[name] for name in HYPERPARAMETERS if name in sent}
        stated = {name: sent[names.get(name, name)] for name in JOB_VALUES[:5]}
        created_at = datetime.fromisoformat(sent["created_at"]).timestamp()
        return dict.fromkeys(JOB_VALUES) | stated | {"created_at": created_at, "hyperparameters": hyperparameters}
    method = job.get("method") or {}
    hyperparameters = job.get("hyperparameters") or method[method["type"]]["hyperparameters"]
    return {name: job[name] for name in JOB_VALUES if name != "hyperparameters"} | {"hyperparameters": hyperparameters}


def _stored_job(row: asyncpg.Record) -> dict[str, Any]:
    """Return a row of the view, with Unix seconds for times, and with JSON read."""
    times = {name: row[name] and row[name].timestamp() for name in JOB_TIMES}
    documents = {name: row[name] and json.loads(row[name]) for name in JOB_DOCUMENTS}
    return {**{name: row[name] for name in JOB_VALUES}, **times, **documents}


def _step(kind: Kind, job: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that an event with metrics must lead to."""
    numbers = {name: value for name, value in event["data"].items() if isinstance(value, int | float)}
    step, total_steps = numbers["step"], numbers.pop("total_steps", None)
    row = {"fine_tuning_job_id": job, "step_number": step, "event_id": event["id"], "origin": "event"}
    if kind != "together":
        return {**row, "total_steps": total_steps, "metrics": numbers}
    sent = {name: value for part in together.metrics(event) for name, value in part.items()}
    metrics = {name: sent[name] for name in ("train/epoch", "eval/loss") if name in sent}
    metrics |= {"step": step, "train_loss": sent["train/loss"]}
    return {**row, "event_id": None, "origin": "metrics", "total_steps": None, "metrics": metrics}


def _metrics(row: asyncpg.Record) -> dict[str, float]:
    """Return the metrics of a row that are not null."""
    named = {name: row[name] for name in METRICS if row[name] is not None}
    return named | json.loads(row["extra_metrics"] or "{}")


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("kind", PRESETS)  # a new kind needs a section and a simulator
async def test_documented_settings(
    kind: Kind, url: str, store: Store, sql: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every checkpoint, step, message and record of each job is stored, value by value, until all jobs are sealed.

    The settings are those of the document. Only the address of the provider is another.
    """
    (block,) = Document("config/README.md").blocks("toml", SECTIONS[kind])
    (tmp_path / "checkpointd.toml").write_text(block)
    settings = load(tmp_path / "checkpointd.toml")
    (source,) = settings.sources
    assert kind == source.kind
    monkeypatch.setenv(str(source.api_key), "canary-key")
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
            group.create_task(daemon.run(settings, lambda: connect(url), fields, {}, migrate=False, stop=stop))
            await until_true(sql, SEALED, len(world.jobs(AFTER_ALL)))
            stop.asked.set()
    jobs = {job["id"]: job for job in world.jobs(AFTER_ALL)}
    if KINDS[kind].lists_jobs:
        stored = {row["id"]: _stored_job(row) for row in await sql.fetch("select * from fine_tuning.jobs")}
        assert {job_id: _job(kind, job) for job_id, job in jobs.items()} == stored
    items = [(item, job) for job in jobs.values() for item in world.checkpoints(job["id"], AFTER_ALL)]
    expected = [row for item, job in items for row in _checkpoints(kind, item, job)]
    rows = await sql.fetch("select *, extract(epoch from created_at)::bigint as unix_time from fine_tuning.checkpoints")
    found = [{**row, "created_at": row["unix_time"], "metrics": _metrics(row)} for row in rows]
    _assert_same(expected, found, "id")
    for job_id in jobs:  # the feed leads to the same values
        changes = await sql.fetch(FEED, job_id)
        of_job = [row for row in rows if row["fine_tuning_job_id"] == job_id]
        assert {} == await Feed(job_id).differences(sql, changes, of_job)
    has_events = PRESETS[kind].format.events is not None
    events = [(job, event) for job in jobs for event in world.events(job, AFTER_ALL) if has_events]
    steps = [_step(kind, job, event) for job, event in events if event["type"] == "metrics"]
    rows = await sql.fetch("select * from fine_tuning.steps")
    _assert_same(steps, [{**row, "metrics": _metrics(row)} for row in rows], "step_number")
    if kind != "together":  # its events have no ids
        messages = {
            (job, *(event[name] for name in ("id", "created_at", "level", "message", "type")))
            for job, event in events
            if event["type"] != "metrics"
        }
        rows = await sql.fetch("""
            select fine_tuning_job_id, id, extract(epoch from created_at)::bigint, level, message, type
            from fine_tuning.events""")
        assert messages == {tuple(row) for row in rows}


def _assert_same(expected: list[dict[str, Any]], found: list[dict[str, Any]], key: str) -> None:
    """Assert that the rows of a view have the expected values, by job and `key`."""
    names = expected[0].keys() if expected else ()
    by_key = {(row["fine_tuning_job_id"], row[key]): {name: row[name] for name in names} for row in found}
    assert {(row["fine_tuning_job_id"], row[key]): row for row in expected} == by_key
