"""Leases: one sender at a time, whatever ends it; and what an error or a slow endpoint does not disturb."""

import asyncio
from typing import NoReturn

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres import webhooks
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider.http import Session
from checkpointd.service.webhooks import WEBHOOK_POOL_SIZE, open_senders, read_endpoints
from checkpointd.settings.model import FixedSettings
from checkpointd.telemetry.health import Health
from support.receiver import SECRET, Received, Receiver
from webhooks.conftest import Open, add_statuses, attempt_now, statuses, view


async def test_isolation(
    url: str, sql: asyncpg.Connection, jobs: dict[str, int], http: Session, health: Health, receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While an endpoint hangs, another webhook sends, although all share one connection, which is free meanwhile."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    hangs = asyncio.Event()

    async def answer(received: Received) -> web.StreamResponse:
        if received.path == "/hangs":
            hangs.set()
            await asyncio.Event().wait()
        return web.Response()

    receiver.answer = answer
    common = {"secret": "WEBHOOK_SECRET", "from": 1, "events": ["status"]}
    tables = [{"name": name, "url": f"{receiver.origin}/{name}", **common} for name in ("hangs", "works")]
    settings = FixedSettings(webhooks=tables)  # type: ignore[arg-type]
    async with open_store(lambda: connect(url), WEBHOOK_POOL_SIZE) as store:
        hanging, working = open_senders(settings, read_endpoints(settings), store, http, health)
        await hanging.tick()  # creates the rows
        await working.tick()
        task = asyncio.create_task(hanging.tick())
        await hangs.wait()
        await working.tick()
        assert ["queued", "running"] == statuses([r for r in receiver.received if r.path == "/works"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_error_of_checkpointd_itself(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """An error in the code ends an attempt as a failure of the endpoint does: it is tried again later."""

    def crash(*_: object) -> NoReturn:
        raise ZeroDivisionError

    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    await (sender := open_sender()).tick()
    webhook = sender._webhook
    sender._webhook = webhook._replace(messages=crash)
    await sender.tick()
    row = await view(sql)
    assert ("failing", 1, "an error of checkpointd itself: see its log") == (
        row["state"], row["failures"], row["last_answer"]
    )  # fmt: skip
    sender._webhook = webhook
    await attempt_now(sql)
    await sender.tick()
    assert ["queued"] == statuses(receiver.received)


async def test_a_replay_during_a_request(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver, store: Store
) -> None:
    """The sender at work moves no cursor, and sends nothing more. No other one sends until its lease has expired."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
    asked, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Received) -> web.StreamResponse:
        asked.set()
        await go.wait()
        return web.Response()

    receiver.answer = wait
    await (sender := open_sender()).tick()
    sending = asyncio.create_task(sender.tick())
    await asked.wait()
    await open_sender().tick()
    assert 1 == len(receiver.received), "the lease keeps another sender away"
    assert await webhooks.replay(store, "hook", 1)
    await open_sender().tick()
    go.set()
    await sending
    assert (0, 1) == ((await view(sql))["cursor"], len(receiver.received))
    await sql.execute("update checkpointd.webhooks set lease_expires_at = now()")
    await sender.tick()
    assert ["queued", "queued", "running"] == statuses(receiver.received)
    assert receiver.received[0].id == receiver.received[1].id


async def test_a_lease_by_a_clock_that_was_ahead(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver, store: Store
) -> None:
    """A lease holds back no other sender if the database's clock was set back after it was taken."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    await (sender := open_sender()).tick()
    assert await webhooks.claim(store, "hook", 1, 60, past_minutes=False)
    await sender.tick()
    assert [] == receiver.received
    await sql.execute("""
        update checkpointd.webhooks
        set leased_at = leased_at + interval '30 days', lease_expires_at = lease_expires_at + interval '30 days'""")
    await sender.tick()
    assert ["queued"] == statuses(receiver.received)


async def test_a_failure_by_a_clock_that_was_ahead(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """If the database's clock was set back after a failed attempt, the next one is due at once, and not later."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    await (sender := open_sender()).tick()
    receiver.answer_once(503, 503)
    await sender.tick()
    await sender.tick()
    assert 1 == len(receiver.received), "the next attempt is due in five seconds"
    await sql.execute("""
        update checkpointd.webhooks
        set attempt_at = attempt_at + interval '30 days', next_attempt_at = next_attempt_at + interval '30 days',
          failing_since = failing_since + interval '30 days'""")
    await sender.tick()
    assert 2 == len(receiver.received)
    assert await sql.fetchval("select failing_since <= attempt_at and attempt_at <= now() from checkpointd.webhooks")


async def test_a_cancelled_sender(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """A sender that is stopped gives its lease back, and the next one repeats the delivery under way with its id."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
    asked = asyncio.Event()

    async def wait(_: Received) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    receiver.answer = wait
    await (sender := open_sender()).tick()
    sending = asyncio.create_task(sender.tick())
    await asked.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert sending.cancelled()
    receiver.answer = None
    await open_sender().tick()
    assert ["queued", "queued", "running"] == statuses(receiver.received)
    assert receiver.received[0].id == receiver.received[1].id
