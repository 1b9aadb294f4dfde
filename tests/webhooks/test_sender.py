"""Deliveries: what is sent and when, how often it is tried, and what is recorded."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from checkpointd.postgres import webhooks
from checkpointd.postgres.store import Store
from checkpointd.settings.webhook import CHANGE_KINDS, FINDING_KINDS
from checkpointd.webhooks.message import TYPES
from support.receiver import SECRET, Received, Receiver
from webhooks.conftest import Open

ALL = ("new", "changed", "regressed", "missing", "returned", "status")


async def add_statuses(sql: asyncpg.Connection, job: int, statuses: Sequence[str], at: str = "now()") -> None:
    """Append a change of the status of a job for each text."""
    await sql.execute(
        f"""insert into checkpointd.changes (at, job, kind, field, new_value)
        select {at}, $1, 'status', 'status', unnest($2::text[])""",
        job,
        statuses,
    )


async def add_checkpoints(sql: asyncpg.Connection, job: int, poll: int, count: int, kind: str = "new") -> None:
    """Append changes of so many checkpoints of a job, which one poll found."""
    await sql.execute(
        """insert into checkpointd.changes (job, poll, kind, checkpoint_id)
        select $1, $2, $4, format('ckpt-%s-%s', $2::bigint, n) from generate_series(1, $3::int) n""",
        job,
        poll,
        count,
        kind,
    )


async def view(sql: asyncpg.Connection) -> dict[str, Any]:
    """Return the row of the view."""
    return dict(await sql.fetchrow("select * from fine_tuning.webhooks"))


def statuses(received: Sequence[Received]) -> list[str]:
    """Return the new statuses that were received."""
    return [request.message["data"]["changes"][0]["new_value"] for request in received]


async def test_a_message(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """A change is sent once, as {type, timestamp, data} with columns of the view `changes`, and is recorded."""
    await add_statuses(sql, jobs["ftjob-a"], ["running"], "'2026-07-01 12:00:00Z'")
    sender = open_sender()
    await sender.tick()  # creates the row
    await sender.tick()
    await sender.tick()
    (request,) = receiver.received
    assert "application/json" == request.headers["content-type"]
    assert {
        "type": "job.status",
        "timestamp": "2026-07-01T12:00:00.000000Z",
        "data": {
            "source": "openai",
            "fine_tuning_job_id": "ftjob-a",
            "first_seq": 1,
            "seq": 1,
            "count": 1,
            "changes": [{"field": "status", "new_value": "running"}],
        },
    } == request.message
    row = await view(sql)
    assert ("ok", 1, 0, 204, 1, 0) == tuple(
        row[name] for name in ("state", "cursor", "failures", "last_status", "delivered_count", "undelivered_count")
    )


async def test_signatures(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """The library of Standard Webhooks accepts each signature, and none with a byte of body, id or time altered."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "läuft <&>", "succeeded"])
    await (sender := open_sender()).tick()
    await sender.tick()
    assert 3 == len(receiver.received)
    official = Webhook(SECRET)
    for request in receiver.received:
        assert request.message == official.verify(request.body, request.headers)
        seconds = int(request.headers["webhook-timestamp"])
        altered = [
            (request.body.replace(b"ftjob-a", b"ftjob-b"), {}),
            (request.body + b" ", {}),
            (request.body, {"webhook-id": request.id + "0"}),
            (request.body, {"webhook-timestamp": str(seconds - 1)}),
            (request.body, {"webhook-timestamp": str(seconds - 3600)}),
            (request.body, {"webhook-signature": "v1," + "A" * 43 + "="}),
        ]
        for body, headers in altered:
            with pytest.raises(WebhookVerificationError):
                official.verify(body, request.headers | headers)
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + "B" * 32).verify(request.body, request.headers)


async def test_selection(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """Only the kinds, sources and jobs of the settings are sent, and the cursor also passes what is not."""
    await sql.execute("update checkpointd.jobs set id = 'ftjob.b' where id = 'ftjob-b'")
    for job in jobs.values():
        await add_checkpoints(sql, job, job, 1)
        await add_statuses(sql, job, ["running"])
    for given, expected in (
        ({"events": ["new"]}, [("checkpoint.new", "ftjob-a"), ("checkpoint.new", "ftjob.b")]),
        ({"jobs": ["ftjob.*"]}, [("job.status", "ftjob.b")]),
        ({"jobs": ["ft???-a", "none"], "events": ALL}, [("checkpoint.new", "ftjob-a"), ("job.status", "ftjob-a")]),
        ({"sources": ["azure*"], "events": ALL}, []),
    ):
        receiver.received.clear()
        await sql.execute("truncate checkpointd.webhooks")
        sender = open_sender(**given)
        await sender.tick()
        await sender.tick()
        found = [(r.message["type"], r.message["data"]["fine_tuning_job_id"]) for r in receiver.received]
        assert expected == found, given
        assert 4 == (await view(sql))["cursor"]


async def test_a_backfill(
    sql: asyncpg.Connection,
    jobs: dict[str, int],
    open_sender: Open,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Changes of one kind that one poll found are one message, whose id does not depend on where a reading begins."""
    monkeypatch.setattr(webhooks, "MOST_CHANGES", 1200)
    await add_statuses(sql, jobs["ftjob-a"], ["running"])
    await add_checkpoints(sql, jobs["ftjob-a"], 1, 1000)
    await add_checkpoints(sql, jobs["ftjob-b"], 2, 300)
    await add_checkpoints(sql, jobs["ftjob-b"], 2, 2, "missing")
    await add_checkpoints(sql, jobs["ftjob-b"], 3, 1)
    sender = open_sender(events=ALL)
    for _ in range(4):
        await sender.tick()
    found = [(r.message["type"], r.message["data"]["seq"], r.message["data"]["count"]) for r in receiver.received]
    assert [
        ("job.status", 1, 1),
        ("checkpoint.new", 1001, 1000),
        ("checkpoint.new", 1301, 300),
        ("checkpoint.missing", 1303, 2),
        ("checkpoint.new", 1304, 1),
    ] == found
    shown = receiver.received[1].message["data"]["changes"]
    assert [f"ckpt-1-{n}" for n in range(991, 1001)] == [change["checkpoint_id"] for change in shown]
    ids = [request.id for request in receiver.received]
    for seq in (1, 500, 1100):
        receiver.received.clear()
        assert await webhooks.replay(sender._store, "hook", seq)
        for _ in range(3):
            await sender.tick()
        assert ids[-len(receiver.received) :] == [request.id for request in receiver.received]
        assert len(receiver.received) == sum(end >= seq for _, end, _ in found)


async def add_finding(sql: asyncpg.Connection, job: int | None, kind: str, *changes: str) -> None:
    """Store a finding of a job, or of the source, with these changes of it (fired, resolved)."""
    await sql.execute(
        """with found as (
          insert into checkpointd.findings (source, job, kind, since, message, value, checkpoint_id)
          select key, $1, $2, '2026-07-01 12:00:00Z', 'later', 1.5, 'ckpt-1' from checkpointd.sources returning id)
        insert into checkpointd.changes (at, job, kind, finding, field, new_value, old_value, checkpoint_id)
        select '2026-07-01 12:00:00Z', $1, change, id, $2, case change when 'fired' then 'it <rises>' end,
          case change when 'resolved' then 'it <rises>' end, 'ckpt-1'
        from found, unnest($3::text[]) change""",
        job,
        kind,
        changes,
    )


async def test_findings(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """By default findings are sent that fire or are resolved, those of sources too, and nothing else."""
    await add_statuses(sql, jobs["ftjob-a"], ["running"], "'2026-07-01 12:00:00Z'")
    await add_finding(sql, jobs["ftjob-a"], "overfitting", "fired", "resolved")
    await add_finding(sql, None, "source_refused", "fired")
    await (sender := open_sender(events=("fired", "resolved"), jobs=("*-a",))).tick()
    await sender.tick()
    fired, resolved, of_source = (request.message for request in receiver.received)
    finding = {
        "id": 1,
        "kind": "overfitting",
        "message": "it <rises>",
        "since": "2026-07-01T12:00:00.000000Z",
        "until": None,
        "value": 1.5,
        "checkpoint_id": "ckpt-1",
    }
    assert {
        "type": "finding.fired",
        "timestamp": finding["since"],
        "data": {"source": "openai", "fine_tuning_job_id": "ftjob-a", "first_seq": 2, "seq": 2, "finding": finding},
    } == fired
    assert ("finding.resolved", finding | {"until": finding["since"]}) == (
        resolved["type"], resolved["data"]["finding"]
    )  # fmt: skip
    assert (None, "source_refused") == (of_source["data"]["fine_tuning_job_id"], of_source["data"]["finding"]["kind"])
    receiver.received.clear()
    await sql.execute("truncate checkpointd.webhooks")
    await (sender := open_sender(format="slack", events=["source_refused", "overfitting"], jobs=["*-b"])).tick()
    await sender.tick()
    (text,) = (request.message["text"] for request in receiver.received)
    assert "openai: source_refused: it &lt;rises&gt;" == text


async def test_kinds(sql: asyncpg.Connection) -> None:
    """The settings accept every kind of changes and findings, each kind of changes has a type, and no other."""
    kinds = {
        table: set(re.findall(r"'(\w+)'::text", definition))
        for table, definition in await sql.fetch(
            """select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint
            where conname in ('changes_kind_known', 'findings_kind_known')"""
        )
    }
    assert {"checkpointd.changes": set(TYPES), "checkpointd.findings": set(FINDING_KINDS)} == kinds
    assert set(CHANGE_KINDS) == set(TYPES)


async def test_a_new_webhook_begins_now(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """By default nothing old is sent, and with a number the changes from there on."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
    await (sender := open_sender(**{"from": "now"})).tick()
    await sender.tick()
    assert [] == receiver.received
    await add_statuses(sql, jobs["ftjob-a"], ["succeeded"])
    await sender.tick()
    assert ["succeeded"] == statuses(receiver.received)
    await sql.execute("truncate checkpointd.webhooks")
    await (sender := open_sender(**{"from": 2})).tick()
    await sender.tick()
    assert ["succeeded", "running", "succeeded"] == statuses(receiver.received)


async def attempt_now(sql: asyncpg.Connection) -> None:
    """Let the next attempt be due."""
    await sql.execute("update checkpointd.webhooks set next_attempt_at = now()")


async def test_answers_that_may_change(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """After a 408, 425, 429 or 5xx the same message is sent again, with the same id, and nothing overtakes it."""
    await (sender := open_sender()).tick()
    for number, status in enumerate((408, 425, 429, 500, 503, 599)):
        await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
        receiver.received.clear()
        receiver.answer_once(status)
        await sender.tick()
        await sender.tick()
        assert ["queued"] == statuses(receiver.received)
        row = await view(sql)
        assert ("failing", 2 * number, 1, status) == (
            row["state"], row["cursor"], row["failures"], row["last_status"]
        )  # fmt: skip
        assert f"HTTP {status}" in row["last_answer"]
        await attempt_now(sql)
        await sender.tick()
        assert ["queued", "queued", "running"] == statuses(receiver.received)
        first, second, _ = receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        row = await view(sql)
        assert ("ok", 0) == (row["state"], row["failures"])


async def test_answers_that_end_a_delivery(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """Any other answer, also a redirect, ends the delivery. It is recorded, and the next message is sent."""
    await (sender := open_sender()).tick()
    for number, status in enumerate((301, 302, 307, 400, 401, 404, 410, 422)):
        await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"])
        receiver.received.clear()
        receiver.answer_once(status, Location="/elsewhere")
        await sender.tick()
        assert ["queued", "running"] == statuses(receiver.received)
        row = await view(sql)
        assert ("ok", number + 1, 2 * number + 1, number + 1) == (
            row["state"], row["undelivered_count"], row["last_undelivered_seq"], row["delivered_count"]
        )  # fmt: skip
        assert row["last_undelivered_reason"].startswith(f"HTTP {status} ")


async def test_retry_after(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """Each gap is twice as long as the one before it, up to an hour, and not shorter than Retry-After."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    await (sender := open_sender()).tick()
    gaps = []
    for header in ("", "", "", *[""] * 8, "7200"):
        receiver.answer_once(503, **({"Retry_After": header} if header else {}))
        await attempt_now(sql)
        await sender.tick()
        gaps.append(
            await sql.fetchval("select extract(epoch from next_attempt_at - attempt_at)::int from checkpointd.webhooks")
        )
    assert [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 7200] == gaps


async def test_three_days(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """When an endpoint has failed for three days, messages of that age end, and younger ones are kept."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"], "now() - interval '4 days'")
    await add_statuses(sql, jobs["ftjob-a"], ["succeeded"])

    async def refuse(_: Received) -> web.StreamResponse:
        return web.Response(status=503)

    receiver.answer = refuse
    await (sender := open_sender()).tick()
    await sender.tick()
    assert 0 == (await view(sql))["undelivered_count"], "the endpoint has not failed for three days"
    await sql.execute(
        "update checkpointd.webhooks set next_attempt_at = now(), failing_since = now() - interval '3 days 1 s'"
    )
    await sender.tick()
    row = await view(sql)
    assert (2, 2, 2, "failing") == tuple(
        row[name] for name in ("undelivered_count", "last_undelivered_seq", "cursor", "state")
    )
    receiver.answer = None
    await attempt_now(sql)
    receiver.received.clear()
    await sender.tick()
    assert ["succeeded"] == statuses(receiver.received)


async def test_no_answer(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """An endpoint that does not answer in time, that closes the connection, or that does not listen is tried again."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    silent = asyncio.Event()

    async def wait(_: Received) -> web.StreamResponse:
        await silent.wait()
        return web.Response()

    async def close(received: Received) -> web.StreamResponse:
        received.transport.abort()
        return web.Response()

    receiver.answer = wait
    await (sender := open_sender(lease_seconds=2)).tick()
    sender._request_seconds = 0.05
    await sender.tick()
    assert "no answer within 0.05 s" == (await view(sql))["last_answer"]
    await attempt_now(sql)
    receiver.answer = close
    await sender.tick()
    assert "the connection was lost: ServerDisconnectedError" == (await view(sql))["last_answer"]
    await receiver.stop()
    await attempt_now(sql)
    await sender.tick()
    row = await view(sql)
    assert (None, 3, "failing") == tuple(row[name] for name in ("last_status", "failures", "state"))
    assert row["last_answer"].startswith("no connection: ")


async def test_a_lost_lease(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver, store: Store
) -> None:
    """A sender whose lease was taken away while it sent moves no cursor, and sends nothing more."""
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
    go.set()
    await sending
    assert (0, 1) == ((await view(sql))["cursor"], len(receiver.received))
    await sender.tick()
    assert ["queued", "queued", "running"] == statuses(receiver.received)
    assert receiver.received[0].id == receiver.received[1].id


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


async def test_slack(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """In the format slack the changes of a minute that is over are one message, whose text is escaped."""
    await sql.execute("update checkpointd.jobs set id = 'ftjob<!here>&a' where id = 'ftjob-a'")
    await add_statuses(sql, jobs["ftjob-a"], [f"s{n}" for n in range(8)], "'2026-07-01 12:00:10Z'")
    await add_checkpoints(sql, jobs["ftjob-b"], 1, 1000)
    await sql.execute("update checkpointd.changes set at = '2026-07-01 12:00:50Z' where kind = 'new'")
    await add_statuses(sql, jobs["ftjob-b"], ["succeeded"], "'2026-07-01 12:01:00Z'")
    await add_statuses(sql, jobs["ftjob-b"], ["of this minute"])
    sender = open_sender(format="slack", events=ALL, secret=None)
    await sender.tick()
    await sender.tick()
    first, second = (request.message["text"] for request in receiver.received)
    assert first.splitlines() == [
        *(f"openai ftjob&lt;!here&gt;&amp;a: unknown → s{n}" for n in range(5)),
        "… and 3 more like this",
        "openai ftjob-b: 1000 new checkpoints",
    ]
    assert "openai ftjob-b: unknown → succeeded" == second
    assert "webhook-signature" not in receiver.received[0].headers
    assert 1009 == (await view(sql))["cursor"]
    await sql.execute("update checkpointd.changes set at = at - interval '1 minute' where seq = 1010")
    await sender.tick()
    assert "of this minute" in receiver.received[2].message["text"]
    assert json.loads(receiver.received[2].body).keys() == {"text"}
