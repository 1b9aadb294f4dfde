"""The command objective, and what the commands show of the best checkpoint."""

import json
from pathlib import Path

import asyncpg

from support.provider import JOB, Provider, checkpoint, page
from support.verbs import Ended, checkpointd, environment


async def test_objective(url: str, provider: Provider, tmp_path: Path) -> None:
    """The command sets the objective of a job, and prints its best checkpoint; `jobs` shows both."""
    env = environment(tmp_path, url, provider.url)

    async def run(*arguments: str) -> Ended:
        return await checkpointd(*arguments, env=env)

    await run("track", JOB)
    ended = await run("objective", JOB, "reward", "--maximize")
    assert (0, f"{JOB} has no checkpoints yet\n") == (ended.code, ended.out)
    items = [checkpoint(n, valid_loss=1 / n, reward=2 * n if n > 1 else None) for n in (1, 2, 3)]
    provider.checkpoints[JOB] = page(items)
    await run("sync")
    best = f"{JOB}: step 3 has the largest reward, 6.0000, of 2 with this metric, out of 3 checkpoints\n"
    assert best == (await run("objective", JOB, "reward", "--maximize")).out
    (row,) = json.loads((await run("jobs", "--json")).out)
    assert (3, "reward", "maximize", "job", 6, 2, 3) == tuple(
        row[f"best_{name}"] for name in ("step", "rule", "direction", "set_for", "value", "covered", "candidates")
    )
    header, line = (await run("jobs")).out.splitlines()
    assert "best step  covered  by" in header
    assert "3          2 of 3   largest reward" in line
    ended = await run("objective", JOB, "cost", "--minimize")
    assert (0, f"{JOB}: no checkpoint has cost\n") == (ended.code, ended.out)
    await run("untrack", JOB)
    best = f"{JOB}: step 3 has the largest reward, 6.0000, of 2 with this metric, out of 3 checkpoints\n"
    assert best == (await run("objective", JOB, "--default")).out
    ended = await run("objective", "ftjob-2", "--default")
    assert (1, "checkpointd: ftjob-2 is not known: run `checkpointd jobs`\n") == (ended.code, ended.err)


async def test_objective_of_a_source(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """The objective of the settings applies to the jobs of its source, and is gone when the settings lack it."""
    config = tmp_path / "settings.toml"
    source = f"[[sources]]\nname = 'a'\nkind = 'compatible'\nbase_url = '{provider.url}'\napi_key = 'OPENAI_API_KEY'\n"
    provider.checkpoints[JOB] = page([checkpoint(n, valid_loss=1 / n, cost=n) for n in (1, 2)])
    env = environment(tmp_path, url, provider.url)
    config.write_text(source)
    await checkpointd("track", JOB, "--config", str(config), env=env)
    best = "select step_number, rule, set_for from fine_tuning.best_checkpoints"
    for objective, expected in (
        ("objective = 'minimize cost'\n", (1, "cost", "source")),
        ("", (2, "valid_loss", "default")),
    ):
        config.write_text(source + objective)
        assert 0 == (await checkpointd("sync", "--config", str(config), env=env)).code
        assert expected == tuple(await sql.fetchrow(best) or ())
