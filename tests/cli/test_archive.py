"""`checkpointd archive`: it fetches everything once, goes on where it stopped, and proves in SQL what is complete."""

import json
from pathlib import Path
from typing import Any

import asyncpg

from checkpointd.postgres.store import Store
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.world import EPOCH, World
from support.harness import until_true
from support.provider import Provider, checkpoint, error, event, held, job, page, paged, step_event
from support.verbs import KEY, Ended, checkpointd, environment, running

ENDED = ("ftjob-a", "ftjob-b", "ftjob-c")
ARCHIVE = """
  select fine_tuning_job_id, is_complete, reason, has_record, has_checkpoints, has_events
  from fine_tuning.archive order by 1"""


def _serve(provider: Provider) -> None:
    """Serve ended jobs with 30 checkpoints and 30 events each, and one that is running."""
    provider.jobs = paged([*(job(name, "succeeded") for name in ENDED), job("ftjob-d")])
    for name in (*ENDED, "ftjob-d"):
        provider.checkpoints[name] = paged([checkpoint(n, name) for n in range(30, 0, -1)])
        provider.events[name] = paged([event(99), *(step_event(n, n) for n in range(29, 0, -1))])


def _asked(provider: Provider) -> list[str]:
    """Return the jobs whose checkpoints were requested, and forget all requests."""
    jobs = {str(name) for request in provider.requests if (name := request.match_info.get("job"))}
    provider.requests.clear()
    return sorted(jobs)


def _reasons(ended: Ended) -> dict[str, Any]:
    return {row["fine_tuning_job_id"]: row["reason"] for row in json.loads(ended.out)["incomplete"]}


async def test_archive(url: str, store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Each listed job is tracked, and its record, checkpoints and events are fetched. What is not complete is named.

    The budget of discovery does not count. A second run asks only for what is not complete.
    """
    await store.register_sources({"openai": "openai"})
    await sql.execute("update checkpointd.sources set new_jobs_until = now() + interval '1 day'")
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_PAGE_SIZE="2")
    _serve(provider)
    provider.checkpoints["ftjob-b"] = error(500, message="down")
    provider.events["ftjob-c"] = error(500, message="down")
    ended = await checkpointd("archive", "--json", env=env)
    assert 1 == ended.code, ended.err
    assert {
        "ftjob-b": "checkpoints: HTTP 500 invalid_request_error down",
        "ftjob-c": "events: HTTP 500 invalid_request_error down",
        "ftjob-d": "the job has not ended",
    } == _reasons(ended)
    assert [
        ("ftjob-a", True, None, True, True, True),
        ("ftjob-b", False, "checkpoints: HTTP 500 invalid_request_error down", True, False, True),
        ("ftjob-c", False, "events: HTTP 500 invalid_request_error down", True, True, False),
        ("ftjob-d", False, "the job has not ended", True, False, False),
    ] == [tuple(row) for row in await sql.fetch(ARCHIVE)]
    counts = """
      select (select count(*) from fine_tuning.checkpoints), (select count(*) from fine_tuning.steps),
        (select count(*) from fine_tuning.events)"""
    assert (90, 116 - 29, 3) == tuple(await sql.fetchrow(counts) or ())

    _serve(provider)
    provider.jobs = paged([job(name, "succeeded") for name in (*ENDED, "ftjob-d")])
    assert ["ftjob-a", "ftjob-b", "ftjob-c", "ftjob-d"] == _asked(provider)
    await sql.execute("update checkpointd.event_lists set due_at = now()")
    ended = await checkpointd("archive", env=env)
    assert ["ftjob-b", "ftjob-d"] == _asked(provider)
    assert (0, "4 jobs: 4 complete\n") == ended[:2]
    assert (120, 116, 4) == tuple(await sql.fetchrow(counts) or ())


async def test_an_interrupted_archive(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """After an interruption within the job list, the next run goes on with it where it stopped."""
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_PAGE_SIZE="2")
    _serve(provider)
    listed = provider.jobs
    blocked, reached, _ = held(page([]))
    provider.jobs = [page([job(name, "succeeded") for name in ENDED[:2]], has_more=True), blocked]
    async with running("archive", env=env) as archiving:
        await reached.wait()
        await until_true(sql, "select count(*) = 2 from fine_tuning.archive")
        archiving.terminate()
        assert 130 == await archiving.wait()
    provider.jobs = listed
    provider.requests.clear()
    assert {"ftjob-d": "the job has not ended"} == _reasons(await checkpointd("archive", "--json", env=env))
    lists = [request.query.get("after") for request in provider.requests if "job" not in request.match_info]
    assert [None, "ftjob-b"] == lists[:2]


async def test_no_job_list(url: str, provider: Provider, tmp_path: Path) -> None:
    """If the job list cannot be read, that is reported, because jobs that are not known may be missing."""
    env = environment(tmp_path, url, provider.url)
    provider.jobs = error(403, message="no right")
    ended = await checkpointd("archive", env=env)
    assert (1, "0 jobs: 0 complete\n", "job list of openai: HTTP 403 invalid_request_error no right\n") == ended


def _with_coreweave(folder: Path, url: str, api: str, more: str = "") -> dict[str, str]:
    """Return the environment of a command with a source of a kind without a job list, and others."""
    source = f"[[sources]]\nname = 'models'\nkind = 'coreweave'\nbase_url = '{api}'\napi_key = 'KEY'\n"
    (folder / "c.toml").write_text(source + more)
    return environment(folder, url, CHECKPOINTD_CONFIG=str(folder / "c.toml"), KEY=KEY)


async def test_a_kind_without_a_job_list(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """It is said that only tracked jobs are archived, and how to track one. Without one, the archive has failed."""
    said = (
        "this provider has no job list, so only tracked jobs are polled and archived: "
        "track each one with `checkpointd track JOB_ID --source models`"
    )
    world = World(7, 2, EPOCH, Shape("coreweave", retention="all"))
    async with serve(world, lambda: EPOCH + 86_400, port=0) as api:
        env = _with_coreweave(tmp_path, url, api)
        assert (1, "0 jobs: 0 complete\n", f"job list of models: {said}\n") == await checkpointd("archive", env=env)
        job_id = world.jobs(EPOCH + 86_400)[0]["id"]
        assert 0 == (await checkpointd("track", job_id, env=env)).code
        ended = await checkpointd("archive", "--json", env=env)
        assert {"models": said} == json.loads(ended.out)["job_lists"]
        assert (1, {job_id: "the job has not ended"}) == (ended.code, _reasons(ended))
        await sql.execute("update checkpointd.polling set settling_since = '2026-01-01'")
        assert (0, "1 job: 1 complete\n", f"job list of models: {said}\n") == await checkpointd("archive", env=env)


async def test_a_kind_without_a_job_list_beside_another(url: str, provider: Provider, tmp_path: Path) -> None:
    """The other source is archived. The one without a job list is named and has no job, so the archive has failed."""
    other = f"[[sources]]\nname = 'other'\nbase_url = '{provider.url}'\napi_key = 'KEY'\n"
    env = _with_coreweave(tmp_path, url, provider.url, other)
    provider.jobs = page([])
    ended = await checkpointd("archive", env=env)
    assert (1, "0 jobs: 0 complete\n") == ended[:2]
    assert ended.err.startswith("job list of models: this provider has no job list")
    assert (0, "0 jobs: 0 complete\n", "") == await checkpointd("archive", "--source", "other", env=env)


async def test_kinds_without_records(sql: asyncpg.Connection, store: Store) -> None:
    """Jobs of the kinds without job records and events can be complete without them, and no others."""
    keys = await store.register_sources({kind: kind for kind in PRESETS})
    for key in keys.values():
        await store.track(key, ["ftjob-a"])
    await sql.execute("update checkpointd.polling set settling_since = '2026-01-01', complete_from = '2026-01-02'")
    complete = "select source from fine_tuning.archive where is_complete"
    formats = {kind: preset.format for kind, preset in PRESETS.items()}
    without_records = {kind for kind, form in formats.items() if form.jobs is None}
    without_events = {kind for kind, form in formats.items() if form.events is None}
    assert without_records & without_events == {row["source"] for row in await sql.fetch(complete)}
    await sql.execute("update checkpointd.jobs set payload = '{}'")
    assert without_events == {row["source"] for row in await sql.fetch(complete)}


async def test_what_is_not_complete(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """An item that cannot be read, and a job that the job list does not show, are named in the reason."""
    env = environment(tmp_path, url, provider.url)
    provider.jobs = page([job("ftjob-a", "succeeded")])
    provider.events = {"ftjob-a": page([]), "ftjob-b": page([])}
    provider.checkpoints["ftjob-a"] = page(
        [checkpoint(1, "ftjob-a"), {"id": 5, "object": "fine_tuning.job.checkpoint"}]
    )
    provider.checkpoints["ftjob-b"] = page([checkpoint(1, "ftjob-b")])
    await checkpointd("track", "ftjob-b", env=env)
    ended = await checkpointd("archive", "--json", env=env)
    assert {
        "ftjob-a": "checkpoints: items cannot be read (see rejects)",
        "ftjob-b": "no job record was received; the job has not ended",
    } == _reasons(ended)
    await checkpointd("untrack", "ftjob-b", env=env)
    reason = await sql.fetchval("select reason from fine_tuning.archive where fine_tuning_job_id = 'ftjob-b'")
    assert "no job record was received; the job has not ended; untracked" == reason
