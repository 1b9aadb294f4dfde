"""A pause ends before its time if a person says so: all daemons send requests again within seconds."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.attribution import SourceState
from checkpointd.polling.job_list import JobList
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from support.harness import open_source, polling_one, tick, track, until_true
from support.provider import JOB, Provider, checkpoint, error, page
from support.verbs import checkpointd, environment, running, wait_for_line

STATE = "select state from fine_tuning.sources"
QUOTA = error(429, "insufficient_quota", retry_after="3600")


def _job_list(store: Store, source: ActiveSource) -> JobList:
    return JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=0)


@pytest.mark.parametrize("command", ["resume", "sync"])
async def test_a_command_ends_a_pause_of_a_daemon(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, command: str
) -> None:
    """After a quota pause of an hour, `resume`, or a complete `sync`, makes a running daemon poll within seconds.

    Until then `status` and `check` say how the pause can be ended.
    """
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
    provider.checkpoints[JOB] = QUOTA
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "source.paused")
        await until_true(sql, "select resume_at > now() + interval '50 min' from fine_tuning.sources")
        provider.checkpoints[JOB] = page([checkpoint(1)])
        assert "run `checkpointd resume`" in (await checkpointd("status", env=env)).out
        checked = (await checkpointd("check", env=env)).out
        assert "warn  pause of source openai: no daemon polls it until" in checked
        assert "run `checkpointd resume`" in checked
        assert 0 == (await checkpointd(command, env=env)).code
        assert "ok" == await sql.fetchval(STATE)
        await wait_for_line(daemon, "source.resumed")
        provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2)])
        await until_true(sql, "select count(*) = 2 from fine_tuning.checkpoints", seconds=20)


@pytest.mark.parametrize(
    ("state", "answer"), [(SourceState.PAUSED, QUOTA), (SourceState.REFUSED, error(401, "invalid_api_key"))]
)
async def test_resumption_ends_a_silence(
    store: Store, provider: Provider, sql: asyncpg.Connection, state: SourceState, answer: web.Response
) -> None:
    """A daemon ends its silence after a resumption, whatever its cause. One from before the silence has no effect."""
    provider.checkpoints[JOB] = answer
    await track(store)
    async with polling_one(store, provider) as (poller, source, _):
        await store.resume_sources([source.key])
        await source.notice_resumption(store)  # the source is not silent yet
        await tick(poller)
        await poller.queue.saved()
        assert (state, 0) == (source.attribution.state, await poller.tick())
        await source.notice_resumption(store)
        assert source.attribution.is_silent(asyncio.get_running_loop().time())
        assert ["test"] == await store.resume_sources([source.key])
        await source.notice_resumption(store)
        assert not source.attribution.is_silent(asyncio.get_running_loop().time())
        provider.checkpoints[JOB] = page([])
        assert 1 == await tick(poller)
    assert "ok" == await sql.fetchval(STATE)


async def test_a_resumption_during_a_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A poll that was claimed before a resumption, and meets a 429 after it, pauses nothing. The next one does."""
    asked, resumed = asyncio.Event(), asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        asked.set()
        await resumed.wait()
        return error(429, "insufficient_quota", retry_after="3600")

    provider.checkpoints[JOB] = answer
    await track(store)
    async with polling_one(store, provider) as (poller, source, _):
        assert 1 == await poller.tick()
        await asked.wait()
        await sql.execute("select pg_sleep(0.2)")  # the time of the server: the claim was clearly before
        await store.resume_sources([source.key])
        await source.notice_resumption(store)  # the source is not silent yet
        resumed.set()
        provider.checkpoints[JOB] = QUOTA
        await poller.idle()
        await poller.queue.saved()
        assert "ok" == await sql.fetchval(STATE)
        assert 1 == await tick(poller)
        await poller.queue.saved()
        assert ("paused", 0) == (await sql.fetchval(STATE), await poller.tick())


async def test_a_resumption_during_a_reading_of_the_job_list(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A reading of the job list that was begun before a resumption, and meets a 429 after it, pauses nothing."""
    async with open_source(store, provider) as source:

        async def answer(_: web.Request) -> web.Response:
            await sql.execute("select pg_sleep(0.2)")  # the time of the server: the reading began clearly before
            await store.resume_sources([source.key])
            return error(429, "insufficient_quota", retry_after="3600")

        provider.jobs = answer
        await _job_list(store, source).tick(due_or_not=True)
        assert "ok" == await sql.fetchval(STATE)
        provider.jobs = QUOTA
        await _job_list(store, source).tick(due_or_not=True)
        assert "paused" == await sql.fetchval(STATE)


async def test_a_later_pause_is_not_ended(store: Store, sql: asyncpg.Connection) -> None:
    """A pause that began during a sync says more than the sync: it stays, and no daemon ends its silence."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 900, "HTTP 429")
    await sql.execute("update checkpointd.sources set paused_at = now() - interval '10 s'")
    assert [] == await store.resume_sources([key], 20)
    assert ("paused", False) == (await sql.fetchval(STATE), await store.was_resumed(key, 60))
    assert ["test"] == await store.resume_sources([key], 5)
    assert ("ok", True) == (await sql.fetchval(STATE), await store.was_resumed(key, 60))


async def test_a_pause_from_before_the_clock_was_set_back(store: Store, sql: asyncpg.Connection) -> None:
    """A pause that was set while the clock was ahead is ended by a command, too."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 900, "HTTP 429")
    await sql.execute("update checkpointd.sources set paused_at = now() + interval '1 h'")
    assert ["test"] == await store.resume_sources([key])
    assert "ok" == await sql.fetchval(STATE)
