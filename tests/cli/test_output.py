"""The output of `status`, `jobs` and `sync`, on a real terminal and in a pipe."""

import json
import re
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from support import hostile
from support.finding_histories import OVERFITTING, History, add
from support.harness import read_job_list, sync
from support.provider import JOB, Provider, checkpoint, job, page
from support.stored import fill
from support.verbs import checkpointd, environment, on_terminal

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[3[0-7]m")
UNREADABLE = "unreadable items"


def _lines(written: str) -> list[str]:
    """Return the lines of a terminal, without colours."""
    return CODES.sub("", written).replace("\r", "").splitlines()


def _settings(folder: Path, provider: Provider) -> Path:
    """Write a settings file with the source `test`."""
    path = folder / "checkpointd.toml"
    path.write_text(f"[[sources]]\nname = 'test'\nbase_url = '{provider.url}'\napi_key = 'ANY'\n")
    return path


@pytest.mark.parametrize("columns", [80, 120])
async def test_tables_fit_the_terminal(
    url: str, store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, columns: int
) -> None:
    """Tables are as wide as the terminal at most, ids are not wrapped, problems are red, and wide ones show more."""
    jobs = ["ftjob-" + letter * 24 for letter in "ab"]
    for one in jobs:
        provider.checkpoints[one] = page([checkpoint(1000, one)])
    provider.jobs = page([job(jobs[0], "running"), job(jobs[1], "succeeded")])
    await sync(store, provider, *jobs)
    await read_job_list(store, provider)
    await sql.execute(
        """update checkpointd.polling p set last_complete_at = now() - interval '2 hours 5 minutes', failures = 3,
          last_error = 'HTTP 503 the server is overloaded'
        from checkpointd.jobs j where j.key = p.job and j.id = $1""",
        jobs[0],
    )
    env = environment(tmp_path, url, CHECKPOINTD_CONFIG=str(_settings(tmp_path, provider)))
    written = await on_terminal("status", env=env, columns=columns)
    assert f"{jobs[0]}\x1b" not in written
    assert "\x1b[31mstale, read 2 h 5 min ago" in written
    lines = _lines(written)
    assert max(map(len, lines)) <= columns
    assert ["source  state  jobs", "test    ok        2"] == [line.rstrip() for line in lines[:2]]
    assert re.match(rf"{jobs[0]}  (active +)?stale, read 2 h 5 min ago  3 failed polls: HTTP", lines[4])
    assert re.match(rf"{jobs[1]}  ((active|settling) +)?read \d+ s ago", lines[-3])
    assert "2 jobs tracked: 1 stale, 1 failing" == lines[-1]
    lines = _lines(await on_terminal("jobs", env=env, columns=columns))
    assert max(map(len, lines)) <= columns
    assert re.match(rf"{jobs[0]}  running +active +1  1,000", lines[1])
    assert (columns == 120) == ("gpt-4o-mini-2024-07-18" in lines[1])
    assert (columns == 120) == ("  1 of 1  " in lines[1])


async def test_open_findings(url: str, store: Store, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`status` prints the open findings first, those about sources before the others; `jobs` names their kinds."""
    await store.register_sources({"test": "openai"})
    await add(sql, "ftjob-overfitting", History("", losses=OVERFITTING))
    await add(sql, "ftjob-sound", History(""))
    await sql.execute("update checkpointd.sources set state = 'refused', last_error = 'HTTP 401: no such key'")
    await evaluate_findings(store)
    env = environment(tmp_path, url)
    lines = (await checkpointd("status", env=env)).out.splitlines()
    assert re.match("finding +job or source +since +message", lines[0])
    assert re.match("source refused +test +.* UTC +The source refuses the key: HTTP 401: no such key", lines[1])
    assert re.match(
        "overfitting +ftjob-overfitting +.* UTC +full_valid_loss went from 0.9 at step 200 to 1.2", lines[2]
    )
    assert "" == lines[3]
    kinds = [
        finding["kind"] for finding in json.loads((await checkpointd("status", "--json", env=env)).out)["findings"]
    ]
    assert ["source_refused", "overfitting"] == kinds
    jobs = {row["id"]: row["findings"] for row in json.loads((await checkpointd("jobs", "--json", env=env)).out)}
    assert {"ftjob-overfitting": ["overfitting"], "ftjob-sound": []} == jobs
    await sql.execute("update checkpointd.findings set until = now()")
    assert (await checkpointd("status", env=env)).out.startswith("source ")


async def test_webhooks_that_fail(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`status` prints the webhooks of the settings that fail, since when and why; as JSON all of them."""
    await sql.execute("""
        insert into checkpointd.webhooks (name, cursor, failures, failing_since, last_answer)
        values ('chat', 0, 3, '2026-11-01 12:00Z', 'HTTP 503'), ('fine', 0, 0, null, null),
          ('removed', 0, 9, now(), 'x')""")
    table = '[[webhooks]]\nname = "{}"\nurl = "http://[::1]"\nformat = "slack"\n'
    (tmp_path / "checkpointd.toml").write_text("".join(map(table.format, ("chat", "fine"))))
    env = environment(tmp_path, url, CHECKPOINTD_CONFIG=str(tmp_path / "checkpointd.toml"))
    lines = (await checkpointd("status", env=env)).out.splitlines()
    assert re.match("webhook +state +reason", lines[0])
    assert re.match("chat +failing +3 failed attempts since 2026-11-01 12:00:00 UTC: HTTP 503", lines[1])
    assert "" == lines[2]
    listed = json.loads((await checkpointd("status", "--json", env=env)).out)["webhooks"]
    assert [("chat", "failing"), ("fine", "ok")] == [(row["name"], row["state"]) for row in listed]


async def test_narrow_terminal(
    url: str, store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """On a narrow terminal long cells are wrapped, and no part of them is cut off."""
    keys = await store.register_sources({"test": "openai", "another": "openai"})
    await store.track(keys["another"], ["ftjob-another"])
    await sync(store, provider, "ftjob-1234567890")
    reason = "HTTP 404 fine_tune_not_found: there is no such job"
    await sql.execute("update checkpointd.polling set failures = 3, last_error = $1", reason)
    env = environment(tmp_path, url, provider.url)
    lines = _lines(await on_terminal("status", env=env, columns=60))
    assert 60 >= max(map(len, lines))
    header = next(line for line in lines if line.startswith("job "))
    problems = "".join(line[header.index("problem") :] for line in lines[lines.index(header) + 1 : -2])
    assert 2 * f"3 failed polls: {reason}".replace(" ", "") == problems.replace(" ", "")
    lines = _lines(await on_terminal("jobs", env=env, columns=60))
    assert 60 >= max(map(len, lines))
    assert "checkpoints" in "".join(lines)


async def test_nothing_tracked(url: str, provider: Provider, tmp_path: Path) -> None:
    """Without jobs the output has the command that tracks one, on a terminal and in a pipe; the JSON is empty."""
    env = environment(tmp_path, url, provider.url)
    advice = "No jobs are tracked: run `checkpointd track ftjob-…`"
    for command, empty in (("status", {"findings": [], "sources": [], "webhooks": [], "jobs": []}), ("jobs", [])):
        assert [advice] == _lines(await on_terminal(command, env=env, columns=80))
        assert (0, f"{advice}\n", "") == await checkpointd(command, env=env)
        assert empty == json.loads((await checkpointd(command, "--json", env=env)).out)


async def test_many_jobs(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A terminal shows the first of many jobs and the command that prints all; a pipe gets all."""
    await fill(sql, jobs=1000, checkpoints=1)
    env = environment(tmp_path, url, provider.url)
    lines = _lines(await on_terminal("jobs", env=env, columns=80))
    assert (202, "… and 800 more: run `checkpointd jobs | less`") == (len(lines), lines[-1])
    assert 1001 == len((await checkpointd("jobs", env=env)).out.splitlines())


async def test_colours(url: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """Only terminals get colours, unless NO_COLOR is set; JSON has no colours."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    env = environment(tmp_path, url, provider.url)
    assert COLOURS.search(await on_terminal("status", env=env, columns=80))
    assert not COLOURS.search(await on_terminal("status", env={**env, "NO_COLOR": "1"}, columns=80))
    assert "\x1b" not in await on_terminal("status", env={**env, "TERM": "dumb"}, columns=80)
    assert "\x1b" not in (await checkpointd("status", env={**env, "FORCE_COLOR": "1"})).out
    for command in ("status", "jobs"):
        json.loads(await on_terminal(command, "--json", env=env, columns=80))


async def test_hostile_names(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """No name or error controls the terminal, is interpreted as markup, or fills the screen; nor in a pipe."""
    await hostile.store_hostile(sql)
    env = environment(tmp_path, url, provider.url)
    for command in ("status", "jobs"):
        for columns in (80, 120):
            written = await on_terminal(command, env=env, columns=columns)
            assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202e\u2066]", written)
            assert set() == {code[-1] for code in CODES.findall(written)} - {"m"}
            assert "\x1b" not in CODES.sub("", written)
            assert len(_lines(written)) < 150
        assert "[red]x[/red]" in CODES.sub("", written)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]", (await checkpointd(command, env=env)).out)


async def test_progress(url: str, provider: Provider, tmp_path: Path) -> None:
    """`sync` shows a bar on a terminal and removes it at the end; a pipe gets only the result."""
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", JOB, "ftjob-2", env=env)
    provider.checkpoints = {JOB: page([]), "ftjob-2": page([])}
    written = await on_terminal("sync", env=env, columns=80)
    assert re.search("sync .*━", written)
    assert "\x1b[2K" in written  # the bar's line is cleared
    assert "2 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed" == _lines(written)[-1]
    ended = await checkpointd("sync", env={**env, "FORCE_COLOR": "1"})
    assert (0, "2 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == ended


async def test_status_reports_unreadable_items(url: str, store: Store, provider: Provider, tmp_path: Path) -> None:
    """`status` reports that a listing has items that cannot be read, until all can be read."""
    env = environment(tmp_path, url, provider.url)
    for items in ([checkpoint(2), checkpoint(1)], ["no checkpoint", checkpoint(1)]):
        provider.checkpoints[JOB] = page(items)
        await sync(store, provider)
        assert ("no checkpoint" in items) == (UNREADABLE in (await checkpointd("status", env=env)).out)
