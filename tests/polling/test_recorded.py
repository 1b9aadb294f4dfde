"""Recorded responses of real providers, synced end to end, are in the views value by value."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from checkpointd.postgres.store import Store
from checkpointd.simulator.replay import read_recorded
from support.harness import read_job_list, row_versions, sync, track
from support.paths import RECORDED
from support.provider import Provider, body, page
from support.provider import job as job_record
from support.verbs import checkpointd, environment, running

COMPLETE = sorted(p.name for p in RECORDED.glob("*.json") if p.name != "openai_documented_example.json")
METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the view that an item must lead to."""
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
    """Every recorded value is in the view, absent ones are null, and a second sync writes nothing."""
    text = (RECORDED / name).read_text()
    items = sorted(json.loads(text)["data"], key=lambda item: item["step_number"])
    job = items[0]["fine_tuning_job_id"]
    provider.checkpoints[job] = body(text)
    env = environment(tmp_path, url, provider.url)
    assert 0 == (await checkpointd("track", job, env=env)).code
    first = await checkpointd("sync", env=env)
    assert (0, f"1 job: {len(items)} new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == first
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

    before = await row_versions(sql)
    again = await checkpointd("sync", job, "--json", env=env)
    assert {
        "jobs": 1,
        "new": 0,
        "changed": 0,
        "rejected": 0,
        "failed": 0,
        "failures": [],
        "not_configured": {},
    } == json.loads(again.out)
    assert before == await row_versions(sql)
    assert changes == await sql.fetch("select * from fine_tuning.changes")


async def test_replay(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`simulate --replay` serves each recorded body byte for byte, and a sync stores what was recorded.

    It names the documented example that it leaves out because it claims more pages than it has.
    """
    bodies = [(RECORDED / name).read_bytes() for name in COMPLETE]
    recorded = {json.loads(body)["data"][0]["fine_tuning_job_id"]: body for body in bodies}
    env = environment(tmp_path, url)
    async with running("simulate", "--port", "0", "--replay", str(RECORDED), env=env) as provider:
        assert provider.stdout is not None
        printed = [(await asyncio.wait_for(provider.stdout.readline(), 60)).decode() for _ in range(2)]
        env |= dict(word.split("=", 1) for word in printed[0].removeprefix("export ").split())
        track = printed[1].split()
        assert ["checkpointd", "track", *sorted(recorded)] == [*track[:2], *sorted(track[2:])]
        async with aiohttp.ClientSession() as client:
            for job, body in recorded.items():
                path = f"{env['OPENAI_BASE_URL']}/fine_tuning/jobs/{job}/checkpoints?limit=100"
                async with client.get(path, headers={"Authorization": "Bearer any"}) as response:
                    assert (body, "application/json") == (await response.read(), response.content_type)
        assert 0 == (await checkpointd(*track[1:], env=env)).code
        ended = await checkpointd("sync", env=env)
        items = [item for body in recorded.values() for item in json.loads(body)["data"]]
        summary = f"{len(recorded)} jobs: {len(items)} new checkpoints, 0 changed, 0 rejected items, 0 failed\n"
        assert (0, summary, "") == ended
        provider.terminate()
        _, warnings = await provider.communicate()
    expected = "checkpointd: left out: openai_documented_example.json: it has only the first of several pages\n"
    assert expected == warnings.decode()
    by_id = {row["id"]: row for row in await _rows(sql)}
    assert [_row(item) for item in items] == [{k: by_id[item["id"]][k] for k in _row(item)} for item in items]
    assert len(by_id) == len(items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replay", "nowhere"], "--replay nowhere: No such file or directory"),
        (["--replay", str(RECORDED.parent)], "data: it contains no recorded list of checkpoints (*.json)"),
        (["--replay", str(RECORDED), "--order", "ascending"], "--order has no effect with --replay"),
    ],
)
async def test_wrong_usage_of_replay(arguments: list[str], message: str, tmp_path: Path) -> None:
    """A folder without recordings, or an option that has no effect on them, is wrong usage, reported in one line."""
    ended = await checkpointd("simulate", "--port", "0", *arguments, env=environment(tmp_path))
    assert (2, "", 1) == (ended.code, ended.out, len(ended.err.splitlines()))
    assert message in ended.err


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"object": "list", "data": [], "has_more": false}', "or an empty one, which names no job"),
        ('{"error": {}}', "not a list of checkpoints"),
        ("[]", "not a list of checkpoints"),
        ("<html>", "not a list of checkpoints"),
        ("[" * 100_000, "not a list of checkpoints"),
        (
            '{"data": [{"fine_tuning_job_id": "$(reboot)"}], "has_more": false}',
            "its fine_tuning_job_id is not a valid id",
        ),
        ('{"data": [{"fine_tuning_job_id": "ftjob-1"}], "has_more": false}', "an earlier file already lists ftjob-1"),
    ],
)
def test_replay_leaves_files_out(body: str, reason: str, tmp_path: Path) -> None:
    """A file that is not a recorded list, or has the job of an earlier file, is left out and named with the reason."""
    good = '{"data": [{"fine_tuning_job_id": "ftjob-1"}], "has_more": false}'
    (tmp_path / "1.json").write_text(good)
    (tmp_path / "2.json").write_text(body)
    (tmp_path / "README.md").write_text("not JSON, and not read")
    bodies, (left_out,) = read_recorded(tmp_path)
    assert {"ftjob-1": good.encode()} == bodies
    assert left_out.startswith("2.json: ")
    assert reason in left_out


async def test_example_that_claims_more(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """OpenAI's documented example claims a page that does not exist: its items are stored, but it is no success."""
    text = (RECORDED / "openai_documented_example.json").read_text()
    provider.checkpoints["ftjob-abc123"] = body(text)
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", "ftjob-abc123", env=env)
    ended = await checkpointd("sync", env=env)
    assert (1, "ftjob-abc123: cursor_repeated: a page was returned twice: the provider ignores `after`\n") == (
        ended.code,
        ended.err,
    )
    assert [0.167, 0.134] == [row["full_valid_loss"] for row in await _rows(sql)]
    assert await sql.fetchval("select last_complete_at is null from fine_tuning.freshness")


EXPECTED = {
    "openai_three_epochs_with_validation.json": (3, [1, 2, 3], True, 2, ("valid_loss", 2.2545838967347758e-05, 3, 3)),
    "openai_without_validation.json": (2, [1, 2], True, 1, ("train_loss", 7.629394644936838e-07, 2, 2)),
    # valid_loss is smallest at step 90, but the loss on the whole validation file decides
    "azure_ten_epochs_lists_last_three.json": (10, [8, 9, 10], True, 0, ("full_valid_loss", 2.1294603796566234, 3, 3)),
    "azure_documented_example_ascending.json": (3, [1, 2, 3], False, 2, ("full_valid_loss", 0.114, 3, 3)),
}
"""Determined by hand from the files: n_epochs; the epochs in the order of steps; whether the last checkpoint is final;
the index of the best one; and its row of best_checkpoints: rule, value, checkpoints with this metric, checkpoints."""


@pytest.mark.parametrize("name", COMPLETE)
async def test_derived_columns(name: str, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Epochs, the final checkpoint, the best one and freshness are those that a person reads from each recorded run."""
    n_epochs, epochs, last_is_final, best, best_row = EXPECTED[name]
    items = sorted(json.loads((RECORDED / name).read_text())["data"], key=lambda item: item["step_number"])
    of = items[0]["fine_tuning_job_id"]
    provider.checkpoints[of] = page(items)
    provider.jobs = page([job_record(of, "succeeded", hyperparameters={"n_epochs": n_epochs})])
    await track(store, of)
    await read_job_list(store, provider)
    await sync(store, provider, of)
    rows = await sql.fetch("select epoch, is_final from fine_tuning.checkpoints order by step_number")
    assert [(n, last_is_final and n == epochs[-1]) for n in epochs] == [tuple(row) for row in rows]
    chosen = await sql.fetchrow("""
        select rule, value, covered, checkpoints, checkpoint_id, step_number, missing_since, fine_tuned_model_checkpoint
        from fine_tuning.best_checkpoints""")
    item = items[best]
    expected = (*best_row, item["id"], item["step_number"], None, item["fine_tuned_model_checkpoint"])
    assert expected == tuple(chosen or ())
    freshness = await sql.fetchrow("""
        select last_attempt_at <= last_complete_at, last_complete_at = last_success_at,
          last_complete_at = last_change_at, lag between interval '0' and interval '30 s', is_stale,
          consecutive_failures, error_class, next_poll_at > now()
        from fine_tuning.freshness""")
    assert (True, True, True, True, False, 0, None, True) == tuple(freshness or ())
