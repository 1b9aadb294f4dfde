"""The command sync waits for a source that pauses for a short time, and gives up one that pauses for long."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from checkpointd.cli import sync
from checkpointd.cli.sync import Summary, sync_jobs
from checkpointd.postgres.store import Store
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from support.provider import Provider, checkpoint, error, page

JOBS = [f"ftjob-{number}" for number in range(1, 31)]
THROTTLED = "rate_limit_exceeded"

Sync = Callable[[], Awaitable[Summary]]


@pytest.fixture
async def sync_all(
    store: Store, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Awaitable[Summary]]:
    """Return a function that runs a sync of JOBS, three at a time."""
    monkeypatch.setattr(sync, "SHORTEST_WAIT_SECONDS", 0.05)
    provider.checkpoints |= {job: page([checkpoint(number, job)]) for number, job in enumerate(JOBS, 1)}
    (tmp_path / "key").write_text("canary-key")
    source = Source(name="test", kind="openai", base_url=provider.url, api_key=str(tmp_path / "key"))
    keys = await store.register_sources({"test": "openai"})
    await store.track(keys["test"], JOBS)
    settings = FixedSettings(sources=(source,), concurrency=3)

    async def run() -> Summary:
        async with asyncio.timeout(30):
            return await sync_jobs(settings, store, {"test": source.request_fields()}, None, None, lambda *_: None)

    return run


async def test_short_pauses(sync_all: Sync, provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    """After a short pause the rest of the jobs is polled; a line on standard error says that sync waits."""
    limit = error(429, THROTTLED, retry_after_ms="40")
    for job in JOBS[::10]:
        provider.checkpoints[job] = [limit, provider.checkpoints[job]]
    done = await sync_all()
    assert (len(JOBS), len(JOBS), []) == (done.jobs, done.new, done.failures)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert {"checkpointd: source test pauses: waiting for 1 s"} == set(lines)


async def test_a_pause_before_the_first_poll(sync_all: Sync, provider: Provider) -> None:
    """A throttled job list does not cost the polls: they wait for the end of the pause."""
    provider.jobs = error(429, THROTTLED, retry_after_ms="40")
    assert len(JOBS) == (await sync_all()).new


async def test_a_long_pause(sync_all: Sync, provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    """If the pause is longer than a minute, sync ends at once, and says for how long the source pauses."""
    provider.checkpoints[JOBS[0]] = error(429, THROTTLED, retry_after="600")
    done = await sync_all()
    assert len(JOBS) == done.jobs
    assert {"throttled"} == {failure.error_class for failure in done.failures}
    assert "checkpointd: source test pauses for 10 min: run the command again then\n" == capsys.readouterr().err


async def test_pauses_without_end(
    sync_all: Sync, provider: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a source pauses again and again, and no job can be read in between, sync gives up after a minute in all."""
    monkeypatch.setattr(sync, "PATIENCE_SECONDS", 0.2)
    provider.checkpoints |= dict.fromkeys(JOBS, error(429, THROTTLED, retry_after_ms="60"))
    done = await sync_all()
    assert (len(JOBS), 0) == (len(done.failures), done.new)
    *waits, last = capsys.readouterr().err.splitlines()
    assert 1 <= len(waits) <= 4
    assert last.endswith("run the command again then")


async def test_a_complete_sync_ends_a_pause(sync_all: Sync, store: Store, sql: asyncpg.Connection) -> None:
    """A pause that another process stored is over for all daemons after a sync that could read every job."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 3600, "HTTP 429")
    assert [] == (await sync_all()).failures
    assert ("ok", None) == tuple(await sql.fetchrow("select state, resume_at from fine_tuning.sources"))


async def test_a_sync_that_meets_the_pause_does_not_end_it(
    sync_all: Sync, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A pause stays if the provider still throttles one of the jobs."""
    key = (await store.register_sources({"test": "openai"}))["test"]
    await store.pause_source(key, 3600, "HTTP 429")
    provider.checkpoints[JOBS[0]] = error(429, THROTTLED, retry_after="600")
    assert (await sync_all()).failures
    assert "paused" == await sql.fetchval("select state from fine_tuning.sources")
