"""Sources that are not in the settings are reported, and a source can be renamed, also while a daemon runs."""

import json
import re
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres import overview
from checkpointd.postgres.store import Store
from support.harness import until_true
from support.provider import JOB, Provider, checkpoint, job, page
from support.verbs import KEY, checkpointd, environment, get, running, until_ok, wait_for_line

OTHER = "ftjob-other"
SOURCES = """
    select sources.name, count(jobs.key) from checkpointd.sources
    left join checkpointd.jobs on jobs.source = sources.key group by 1"""


def _env(home: Path, url: str, api: str, *sources: str, **more: str) -> dict[str, str]:
    """Return the environment of a process with these sources in its settings."""
    (home / "key").write_text(KEY)
    config = home / f"{'-'.join(sources)}.toml"
    table = f"base_url = '{api}'\napi_key = '{home / 'key'}'\n"
    config.write_text("".join(f"[[sources]]\nname = '{name}'\n{table}" for name in sources))
    return environment(home, url, CHECKPOINTD_MIN_POLL_SECONDS="0.1", **more, CHECKPOINTD_CONFIG=str(config))


async def test_a_source_that_is_not_configured(
    url: str, provider: Provider, store: Store, tmp_path: Path, port: int
) -> None:
    """Tracked jobs that nothing polls are named by `sync`, `status`, the log, /readyz, the metrics and the page."""
    keys = await store.register_sources({"left": "openai", "empty": "openai"})
    await store.track(keys["left"], [JOB, OTHER])
    env = _env(tmp_path, url, provider.url, "kept", CHECKPOINTD_HTTP_PORT=str(port))
    synced = await checkpointd("sync", env=env)
    assert (1, "0 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed\n") == (synced.code, synced.out)
    (line,) = synced.err.splitlines()
    assert line.startswith(
        "not polled, because these sources are not configured: left (2 jobs): add them to the settings"
    )
    assert "checkpointd rename" in line
    synced = await checkpointd("sync", "--json", env=env)
    assert (1, {"left": 2}) == (synced.code, json.loads(synced.out)["not_configured"])
    assert 0 == (await checkpointd("sync", "--source", "kept", env=env)).code
    status = (await checkpointd("status", env=env)).out
    assert re.search(r"^left +not configured +2 +nothing here polls its jobs: ", status, re.MULTILINE)
    assert re.search(r"^empty +ok +0$", status, re.MULTILINE)
    async with running("run", env=env) as daemon:
        line = await wait_for_line(daemon, "source.not_configured")
        assert {"source": "left", "jobs": 2}.items() <= json.loads(line).items()
        await until_ok(port, "/readyz")
        ready = (await get(port, "/readyz"))[1].splitlines()
        assert ["ok", "source left not configured: nothing polls its jobs"] == ready
        metrics = (await get(port, "/metrics"))[1]
        found = dict(re.findall(r'^checkpointd_unconfigured_jobs{source="(\w+)"} (\S+)', metrics, re.MULTILINE))
        assert {"left": "2.0", "kept": "0.0", "empty": "0.0"} == found
        shown = (await get(port, "/"))[1]
        assert 1 == shown.count("not configured") == shown.count("nothing here polls its jobs: add it to the settings")


async def test_rename_while_a_daemon_runs(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, port: int
) -> None:
    """A running daemon that discovers jobs goes on under the old name, and then under the new one.

    No job is listed twice, and the past changes have the new name.
    """
    provider.jobs = page([job(JOB)])
    provider.checkpoints |= {JOB: page([checkpoint(1)]), OTHER: page([])}
    more = {"CHECKPOINTD_DISCOVER": "true", "CHECKPOINTD_JOB_LIST_SECONDS": "0.1", "CHECKPOINTD_HTTP_PORT": str(port)}
    old, new = (_env(tmp_path, url, provider.url, name, **more) for name in ("old", "new"))
    async with running("run", env=old) as daemon:
        await until_true(sql, "select count(*) = 1 from fine_tuning.checkpoints")
        renamed = await checkpointd("rename", "old", "new", env=old)
        assert (0, "source old is now new\n") == (renamed.code, renamed.out)
        assert "change the name in the settings, too: until then old still means new" in renamed.err
        provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2)])
        provider.jobs = page([job(JOB), job(OTHER)])
        await until_true(sql, "select count(*) = 2 from fine_tuning.checkpoints where source = 'new'")
        await until_true(sql, "select count(*) = 2 from fine_tuning.jobs")
        daemon.terminate()
        await daemon.wait()
    synced = await checkpointd("sync", JOB, "--source", "old", env=old)
    assert (0, "checkpointd: source old was renamed to new: change its name in the settings\n") == (
        synced.code, synced.err
    )  # fmt: skip
    async with running("run", env=old) as daemon:
        await wait_for_line(daemon, "source.renamed")
        await until_ok(port, "/readyz")
        assert "source old renamed to new: change its name" in (await get(port, "/readyz"))[1]
        daemon.terminate()
        await daemon.wait()
    async with running("run", env=new) as daemon:
        await wait_for_line(daemon, "daemon.ready")
        assert 0 == (await checkpointd("sync", env=new)).code
    assert {"new": 2} == dict(map(tuple, await sql.fetch(SOURCES)))
    rows = await sql.fetch("select distinct source from fine_tuning.changes")
    assert ["new"] == [row["source"] for row in rows]
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.changes where checkpoint_id = 'ftckpt_0001'")


@pytest.mark.slow
async def test_rename_after_the_settings(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A daemon that has registered the new name already, without jobs, polls the renamed source within seconds."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    old, new = (_env(tmp_path, url, provider.url, name) for name in ("old", "new"))
    await checkpointd("track", JOB, env=old)
    async with running("run", env=new) as daemon:
        await wait_for_line(daemon, "daemon.ready")
        assert 0 == (await checkpointd("rename", "old", "new", env=new)).code
        await wait_for_line(daemon, "source.registered")
        await until_true(sql, "select count(*) = 1 from fine_tuning.checkpoints where source = 'new'")
    assert {"new": 1} == dict(map(tuple, await sql.fetch(SOURCES)))


async def test_rename_is_refused(url: str, provider: Provider, store: Store, tmp_path: Path) -> None:
    """A name of a source with jobs, a source that does not exist, and a bad name are refused in one line."""
    keys = await store.register_sources({"old": "openai", "new": "openai"})
    await store.track(keys["old"], [JOB])
    await store.track(keys["new"], [JOB])
    env = _env(tmp_path, url, provider.url, "old")
    for names, code, message in (
        (("old", "new"), 1, "source new has jobs of its own: give it another name first"),
        (("gone", "other"), 1, "source gone does not exist (existing sources: new, old)"),
        (("old", "old"), 2, "'old' cannot be the new name"),
        (("old", "a b"), 2, "'a b' cannot be the new name"),
    ):
        refused = await checkpointd("rename", *names, env=env)
        assert (code, True, 1) == (refused.code, message in refused.err, len(refused.err.splitlines())), refused.err
    assert keys == await store.register_sources({"old": "openai", "new": "openai"})


async def test_names_of_a_renamed_source(store: Store, sql: asyncpg.Connection) -> None:
    """A former name means the renamed source, until a source of its own has it; each name means one source."""
    key = (await store.register_sources({"a": "openai"}))["a"]
    assert ["renamed"] * 3 == [await store.rename_source(*names) for names in (("a", "b"), ("a", "b"), ("b", "c"))]
    assert {"a": key} == await store.register_sources({"a": "openai"})
    assert {"b": key} == await store.register_sources({"b": "azure"})
    assert "azure" == await sql.fetchval("select kind from fine_tuning.sources")
    assert "renamed" == await store.rename_source("c", "a"), "a former name"
    assert {"c": key} == await store.register_sources({"c": "openai"})
    both = await store.register_sources({"a": "openai", "b": "openai"})
    assert (key, True) == (both["a"], both["b"] != key)
    assert both == await store.register_sources({"a": "openai"}) | await store.register_sources({"b": "openai"})
    assert ["c"] == await sql.fetchval("select former_names from fine_tuning.sources where name = 'a'")
    for source, digest, number in ((both["a"], b"known", 1), (both["b"], b"known", 2), (both["b"], b"other", 4)):
        await sql.execute(
            "insert into checkpointd.rejects (source, digest, reason, count) values ($1, $2, 'odd', $3)",
            source, digest, number,
        )  # fmt: skip
    assert "renamed" == await store.rename_source("a", "b"), "a source without jobs"
    assert {"b": key, "a": key} == await store.register_sources({"b": "openai"}) | await store.register_sources(
        {"a": "openai"}
    )
    assert [("b", 3), ("b", 4)] == list(
        map(tuple, await sql.fetch("select source, count from fine_tuning.rejects order by count"))
    )


async def test_two_former_names(store: Store, sql: asyncpg.Connection) -> None:
    """If the settings have two former names of a source, only the later one means it: no source is polled twice."""
    key = (await store.register_sources({"b": "openai"}))["b"]
    assert ["renamed"] * 2 == [await store.rename_source(*names) for names in (("b", "a"), ("a", "c"))]
    (row,) = await overview.list_sources(store, ["b", "a"])
    assert "a" == row["outdated_name"]
    both = await store.register_sources({"b": "openai", "a": "openai"})
    assert (key, True) == (both["a"], both["b"] != key)
    assert both == await store.register_sources({"b": "openai", "a": "openai"})
    assert ["a"] == await sql.fetchval("select former_names from fine_tuning.sources where name = 'c'")


async def test_a_source_that_gets_its_own_name(store: Store) -> None:
    """A rename to the same name, by SQL, changes nothing, and deletes no row."""
    keys = await store.register_sources({"a": "openai", "b": "openai"})
    await store.track(keys["b"], [JOB])
    assert ["renamed"] * 2 == [await store.rename_source(name, name) for name in ("a", "b")]
    assert "unknown" == await store.rename_source("c", "c")
    assert {"a": 0, "b": 1} == {row["name"]: row["jobs"] for row in await overview.list_sources(store, [])}


async def test_a_former_name_beside_the_new_one(url: str, provider: Provider, store: Store, tmp_path: Path) -> None:
    """If the settings have both names, each command means two sources, also before a daemon has registered them."""
    await store.track((await store.register_sources({"old": "openai"}))["old"], [JOB])
    await store.rename_source("old", "new")
    env = _env(tmp_path, url, provider.url, "old", "new")
    tracked = await checkpointd("track", OTHER, "--source", "old", env=env)
    assert 0 == tracked.code, tracked.err
    assert {"old": 1, "new": 1} == {row["name"]: row["jobs"] for row in await overview.list_sources(store, [])}


async def test_readers_rename_nothing(sql: asyncpg.Connection) -> None:
    """The function that replaces a row can be called by the daemon's role, and by no reader and no operator."""
    statement = "select checkpointd.rename_source('a', 'b')"
    await sql.execute("begin; set local role checkpointd")
    assert "unknown" == await sql.fetchval(statement)
    for role in ("checkpointd_reader", "checkpointd_operator"):
        await sql.execute(f"rollback; begin; set local role {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.fetchval(statement)
    await sql.execute("rollback")
