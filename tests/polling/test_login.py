"""A source whose key a command prints: no request without a key, and renewals before the expiry and after a 401."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
from aiohttp import web

from checkpointd.polling.job_list import JobList
from checkpointd.polling.login import renew_login
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import SaveQueue
from checkpointd.polling.setup import KEPT_LOGINS, open_poller, open_sources
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.store import Store
from checkpointd.provider.http import open_session
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.hidden import redact
from support.harness import CADENCE, tick, track
from support.provider import JOB, Provider, checkpoint, error, page

STATE = "select state, last_error from fine_tuning.sources"


class Renewing(NamedTuple):
    """The source `test`, whose command prints a file."""

    file: Path
    source: ActiveSource
    poller: Poller
    health: Health
    store: Store

    async def renew(self, text: str | None = None) -> None:
        """Renew the key if that is due. With a text, the command prints it from now on, and is run at once."""
        if text is not None:
            self.file.write_text(text)
            self.source.key_schedule.hurry()
        await renew_login(self.store, self.health, self.source)


@asynccontextmanager
async def renewing(store: Store, provider: Provider, folder: Path) -> AsyncIterator[Renewing]:
    """Open a source whose command fails until there is the file that it prints, and a poller."""
    file, health = folder / "printed", Health()
    source = Source(name="test", base_url=provider.url, api_key_command=["cat", str(file)])
    keys = await store.register_sources({"test": "openai"})
    await track(store)
    async with open_session() as http:
        (active,) = open_sources(FixedSettings(sources=(source,)), keys, http, {"test": source.request_fields()})
        queue = SaveQueue(store, health)
        async with open_poller(store, [active], CADENCE, 60, queue, health, 60) as poller:
            yield Renewing(file, active, poller, health, store)


def _sent(provider: Provider) -> list[str]:
    return [request.headers["Authorization"].removeprefix("Bearer ") for request in provider.requests]


async def test_no_request_without_a_key(
    store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """If the command fails, its source is refused with the reason, and sends nothing. After a success it is polled."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with renewing(store, provider, tmp_path) as to:
        assert 0 == await tick(to.poller), "not before the first run"
        await to.renew()
        lists = JobList(store, to.source, to.health, gap=30, lease_seconds=60, max_new_jobs=0)
        await lists.tick(due_or_not=True)
        unpolled = await to.poller.poll_named(await store.find_jobs([JOB]))
        reason = "api_key_command of source test: exit status 1 (cat: [secret] No such file or directory)"
        assert [reason] == [failure and failure.message for failure in unpolled.values()]
        assert ("refused", reason) == tuple(await sql.fetchrow(STATE) or ())
        assert ["source test refused", reason] == to.health.source_problems()
        assert (False, []) == (to.health.can_poll(1), _sent(provider))
        await to.renew("first-key")
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        await tick(to.poller)
        assert (["first-key"], []) == (_sent(provider), to.health.source_problems())
    assert "ok" == await sql.fetchval(STATE)


async def test_resume_runs_the_command(store: Store, provider: Provider, tmp_path: Path) -> None:
    """`checkpointd resume` lets a command that failed run at once."""
    async with renewing(store, provider, tmp_path) as to:
        for _ in range(9):
            to.source.key_schedule.record_failure(asyncio.get_running_loop().time())
        to.file.write_text("first-key")
        await to.renew()
        assert not to.source.has_key, "it is not due"
        await to.source.notice_resumption(store)
        await store.resume_sources([to.source.key])
        await to.source.notice_resumption(store)
        await to.renew()
        assert to.source.has_key


async def test_renewal_before_the_expiry(store: Store, provider: Provider, tmp_path: Path) -> None:
    """The command is run again before the expiry that it prints. If it fails then, the last key stays in use."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with renewing(store, provider, tmp_path) as to:
        await to.renew(json.dumps({"access_token": "first-key", "expires_in": 3600}))
        now = asyncio.get_running_loop().time()
        due = [to.source.key_schedule.is_due(now + seconds, is_refused=False) for seconds in (3400, 3480)]
        assert [False, True] == due
        to.file.unlink()
        to.source.key_schedule.hurry()
        await to.renew()
        assert ["api_key_command of source test"] == [p.split(":")[0] for p in to.health.source_problems()]
        await tick(to.poller)
        assert ["first-key"] == _sent(provider)
        await to.renew(json.dumps({"access_token": "second-key", "expires_in": 3600}))
        assert [] == to.health.source_problems()
        await to.poller.poll_named(await store.find_jobs([JOB]))
        assert ["first-key", "second-key"] == _sent(provider)


async def test_renewal_after_a_401(store: Store, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """After a 401 the command is run at once, and its new key ends the silence; the same key does not."""

    async def answer(request: web.Request) -> web.Response:
        is_new = request.headers["Authorization"] == "Bearer second-key"
        return page([checkpoint(1)]) if is_new else error(401, "invalid_api_key")

    provider.checkpoints[JOB] = answer
    async with renewing(store, provider, tmp_path) as to:
        await to.renew("first-key")
        await tick(to.poller)
        await to.poller.queue.saved()
        loop = asyncio.get_running_loop()
        to.source.key_schedule.record_success(loop.time() - 3600, None, is_new=True, was_refused=False)
        await to.renew()
        assert (True, True) == (to.source.is_silent(loop.time()), to.source.login_refused)
        to.file.write_text("second-key")
        await to.renew()
        assert to.source.login_refused, "the gap to the next run is not over"
        await to.renew("second-key")
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        await tick(to.poller)
        assert ["first-key", "second-key"] == _sent(provider)
    assert "ok" == await sql.fetchval(STATE)


async def test_old_keys_do_not_add_up(store: Store, provider: Provider, tmp_path: Path) -> None:
    """The last keys are removed from log lines and failures; those before are forgotten, so that they do not add up."""
    keys = [f"canary-{word}" for word in ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf")]
    async with renewing(store, provider, tmp_path) as to:
        for key in keys:
            await to.renew(json.dumps({"token": key}))
        kept = KEPT_LOGINS + 1
        assert [True] * kept == [redact(key) == "[secret]" for key in keys[-kept:]]
        assert keys[:-kept] == [redact(key) for key in keys[:-kept]]
        held = [to.source.client.holds_secret(key.encode()) for key in keys]
        assert [False] * (len(keys) - kept) + [True] * kept == held
