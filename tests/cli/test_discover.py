"""`checkpointd discover`: which listed jobs are tracked, and the reason why others are not."""

import json
from pathlib import Path

import asyncpg
from aiohttp import web

from checkpointd.postgres import job_lists
from checkpointd.postgres.store import Store
from support.harness import track
from support.provider import Provider, error, job, paged
from support.verbs import KEY, checkpointd, environment, on_terminal

TRACKED = "select array_agg(id order by id) from checkpointd.jobs where untracked_at is null"


def _environment(folder: Path, url: str, provider: Provider, lines: str = "", general: str = "") -> dict[str, str]:
    """Return the environment of a command with the source `test`."""
    (folder / "c.toml").write_text(
        f"page_size = 2\n{general}\n[[sources]]\nname = 'test'\nbase_url = '{provider.url}'\napi_key = 'KEY'\n{lines}\n"
    )
    return environment(folder, url, CHECKPOINTD_CONFIG=str(folder / "c.toml"), KEY=KEY)


def _list_jobs(provider: Provider) -> None:
    provider.jobs = paged(
        [
            job("ftjob-new", "queued", model="gpt-4.1-mini"),
            job("ftjob-other", model="gpt-4o", created_at=None),
            {"object": "fine_tuning.job", "id": 5},
            job("ftjob-known", model="gpt-4o"),
            job("ftjob-left", model="gpt-4.1"),
        ]
    )


async def test_dry_run(url: str, provider: Provider, store: Store, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """It shows each listed job with the decision and the reason, as a table and as JSON, and tracks nothing."""
    env = _environment(tmp_path, url, provider, "discover = { model = 'gpt-4.1*' }")
    _list_jobs(provider)
    await track(store, "ftjob-known", "ftjob-left")
    await store.untrack(await store.find_jobs(["ftjob-left"]))
    ended = await checkpointd("discover", "--dry-run", "--json", env=env)
    printed = json.loads(ended.out)
    assert (0, []) == (ended.code, printed["failures"])
    assert [
        ("ftjob-new", "new", None),
        ("ftjob-other", "not tracked", "model gpt-4o"),
        ("ftjob-known", "tracked", None),
        ("ftjob-left", "not tracked", "it was untracked"),
        (None, "not tracked", "unreadable: id: not a string"),
    ] == [(row["fine_tuning_job_id"], row["decision"], row["reason"]) for row in printed["jobs"]]
    assert ("test", "queued", "gpt-4.1-mini", 1_721_764_000) == tuple(
        printed["jobs"][0][name] for name in ("source", "status", "model", "created_at")
    )
    plain = (await checkpointd("discover", "--dry-run", env=env)).out
    assert ["ftjob-other", "test", "not", "tracked", "model", "gpt-4o", "running", "gpt-4o"] == plain.split("\n")[
        2
    ].split()
    shown = await on_terminal("discover", "--dry-run", env=env, columns=100)
    assert "5 jobs listed: 1 would be tracked, 1 were before" in shown
    assert ["ftjob-known"] == await sql.fetchval(TRACKED)


async def test_discovery(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Without --dry-run it tracks what the settings choose, within the budget, and leaves the list to the daemons."""
    env = _environment(tmp_path, url, provider, "discover = true", "max_new_jobs_per_day = 1")
    provider.jobs = paged([job(f"ftjob-{n:02}") for n in range(12)])
    ended = await checkpointd("discover", "--json", env=env)
    decisions = [(row["decision"], row["reason"]) for row in json.loads(ended.out)["jobs"]]
    reason = "more than 1 new jobs a day (CHECKPOINTD_MAX_NEW_JOBS_PER_DAY)"
    assert [("new", None)] * 10 + [("not tracked", reason)] * 2 == decisions
    assert [f"ftjob-{n:02}" for n in range(10)] == await sql.fetchval(TRACKED)
    assert await sql.fetchval("select bool_and(job_list_lease_expires_at is null) from checkpointd.sources")


async def test_failures(url: str, provider: Provider, store: Store, tmp_path: Path) -> None:
    """A list that cannot be read, or that a daemon is reading, is reported, and the exit code is 1."""
    env = _environment(tmp_path, url, provider)
    provider.jobs = error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}")
    ended = await checkpointd("discover", "--dry-run", env=env)
    assert (1, "No jobs are listed\n") == ended[:2]
    assert "checkpointd: source test: HTTP 401 invalid_api_key Incorrect API key provided: [secret]" in ended.err
    _list_jobs(provider)
    ended = await checkpointd("discover", "--dry-run", env=env)
    assert (0, True) == (ended.code, "discover is false" in ended.out)
    key = (await store.register_sources({"test": "openai"}))["test"]
    assert await job_lists.claim(store, key, 60, 30, due_or_not=True)
    ended = await checkpointd("discover", "--json", env=env)
    (failure,) = json.loads(ended.out)["failures"]
    assert "a daemon is reading this job list now, and tracks its jobs: run the command again" == failure["error"]


async def test_long_texts(url: str, provider: Provider, tmp_path: Path) -> None:
    """The table shows the beginning of a long model, and JSON all of it."""
    env = _environment(tmp_path, url, provider, "discover = { model = 'gpt*' }")
    provider.jobs = paged([job("ftjob-a", model="m" * 20_000)])
    (_, line) = (await checkpointd("discover", "--dry-run", env=env)).out.splitlines()
    assert [f"model {'m' * 57}…", "m" * 63 + "…"] == [line[line.index("model") :][:64], line.split()[-1]]
    (listed,) = json.loads((await checkpointd("discover", "--dry-run", "--json", env=env)).out)["jobs"]
    assert ("m" * 20_000, "model " + "m" * 20_000) == (listed["model"], listed["reason"])


async def test_another_format(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """The jobs of a kind with another format are read by its rules, and tracked."""
    env = _environment(tmp_path, url, provider, "kind = 'together'\ndiscover = { model = 'meta*' }")
    listed = {"id": "ft-1", "status": "completed", "model": "meta/llama", "created_at": "2026-05-17T17:35:45.000Z"}
    provider.jobs = web.json_response({"data": [listed]})
    ended = await checkpointd("discover", "--json", env=env)
    (found,) = json.loads(ended.out)["jobs"]
    assert ("ft-1", "new", "meta/llama", 1_779_039_345) == tuple(
        found[name] for name in ("fine_tuning_job_id", "decision", "model", "created_at")
    )
    assert ["ft-1"] == await sql.fetchval(TRACKED)


async def test_a_kind_without_a_job_list(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """It is named, with what to do, and the lists of the other sources are read. If there is no list, it has failed."""
    env = _environment(tmp_path, url, provider, "discover = true")
    provider.jobs = paged([job("ftjob-a")])
    both = tmp_path / "c.toml"
    alone = "[[sources]]\nname = 'models'\nkind = 'coreweave'\napi_key = 'MISSING'\n"
    both.write_text(both.read_text() + alone)
    said = (
        "this provider has no job list, so only tracked jobs are polled and archived: "
        "track each one with `checkpointd track JOB_ID --source models`"
    )
    ended = await checkpointd("discover", "--json", env=env)
    printed = json.loads(ended.out)
    assert [("ftjob-a", "new")] == [(row["fine_tuning_job_id"], row["decision"]) for row in printed["jobs"]]
    assert (0, [{"source": "models", "error": said}]) == (ended.code, printed["failures"])
    assert ["ftjob-a"] == await sql.fetchval(TRACKED)

    failed = (1, "No jobs are listed\n", f"checkpointd: source models: {said}\n")
    assert failed == await checkpointd("discover", "--dry-run", "--source", "models", env=env)
    both.write_text(alone)
    assert failed == await checkpointd("discover", "--dry-run", env=env)
