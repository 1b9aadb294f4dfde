"""Recorded answers of real providers, synced end to end, are in the views value by value."""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from provider import Provider, body
from verbs import checkpointd, environment

RECORDED = Path(__file__).parent / "data" / "recorded"
COMPLETE = sorted(p.name for p in RECORDED.glob("*.json") if p.name != "openai_documented_example.json")
METRICS = (
    "step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy", "full_valid_loss",
    "full_valid_mean_token_accuracy",
)  # fmt: skip


def _row(item: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that an item must become."""
    return {
        "id": item["id"],
        "fine_tuning_job_id": item["fine_tuning_job_id"],
        "step_number": item["step_number"],
        "created_at": item["created_at"],
        "fine_tuned_model_checkpoint": item["fine_tuned_model_checkpoint"],
        **{name: item["metrics"].get(name) for name in METRICS},
    }


async def _rows(sql: asyncpg.Connection) -> list[dict[str, Any]]:
    columns = ", ".join(["id", "fine_tuning_job_id", "step_number", "fine_tuned_model_checkpoint", *METRICS])
    rows = await sql.fetch(
        f"select {columns}, extract(epoch from created_at)::bigint as created_at, extra_metrics, missing_since,"
        " is_final from fine_tuning.checkpoints order by step_number"
    )
    return [dict(row) for row in rows]


@pytest.mark.parametrize("name", COMPLETE)
async def test_values(name: str, url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Every recorded value stands in the view, absent ones are null, and a second sync writes nothing."""
    text = (RECORDED / name).read_text()
    items = sorted(json.loads(text)["data"], key=lambda item: item["step_number"])
    job = items[0]["fine_tuning_job_id"]
    provider.checkpoints[job] = body(text)
    env = environment(tmp_path, url, provider.url)
    assert 0 == (await checkpointd("track", job, env=env)).code
    first = await checkpointd("sync", env=env)
    assert (0, f"1 jobs: {len(items)} new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == first
    rows = await _rows(sql)
    assert [_row(item) for item in items] == [{k: row[k] for k in _row(items[0])} for row in rows]
    assert {None} == {row["extra_metrics"] for row in rows} | {row["missing_since"] for row in rows}
    assert [":ckpt-step-" not in item["fine_tuned_model_checkpoint"] for item in items] == [
        row["is_final"] for row in rows
    ]
    changes = await sql.fetch("select * from fine_tuning.changes")
    assert ["new"] * len(items) == [row["kind"] for row in changes]
    long = await sql.fetch("select checkpoint_id, metric, value from fine_tuning.checkpoint_metrics")
    assert {(item["id"], k, v) for item in items for k, v in item["metrics"].items()} == {tuple(row) for row in long}

    tables = """select relname, n_tup_ins, n_tup_upd from pg_stat_user_tables
        where relname <> 'polling' and relname <> 'sources'"""
    await sql.execute("select pg_stat_force_next_flush()")
    before = await sql.fetch(tables)
    again = await checkpointd("sync", job, "--json", env=env)
    assert {"jobs": 1, "new": 0, "changed": 0, "rejected": 0, "failed": 0, "failures": []} == json.loads(again.out)
    await sql.execute("select pg_stat_force_next_flush()")
    assert set(before) == set(await sql.fetch(tables))
    assert changes == await sql.fetch("select * from fine_tuning.changes")


async def test_example_that_claims_more(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """OpenAI's documented example claims a page that never comes: its items are stored, but it is no success."""
    text = (RECORDED / "openai_documented_example.json").read_text()
    provider.checkpoints["ftjob-abc123"] = body(text)
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", "ftjob-abc123", env=env)
    ended = await checkpointd("sync", env=env)
    assert (1, "ftjob-abc123: cursor_repeated: a page that was read before: `after` is ignored\n") == (
        ended.code,
        ended.err,
    )
    assert [0.167, 0.134] == [row["full_valid_loss"] for row in await _rows(sql)]
    assert await sql.fetchval("select last_complete_at is null from fine_tuning.freshness")
