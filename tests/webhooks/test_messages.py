"""What is sent: bodies, signatures, which changes, and which of them are one message."""

import json
import re

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from checkpointd.postgres import webhooks
from checkpointd.settings.webhook import CHANGE_KINDS, FINDING_KINDS, MOST_SEQ
from checkpointd.webhooks.message import TYPES
from support.receiver import SECRET, Receiver
from webhooks.conftest import Open, add_checkpoints, add_finding, add_statuses, statuses, view

ALL = ("new", "changed", "regressed", "missing", "returned", "status")


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


async def test_selection(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Only the kinds, sources and jobs of the settings are sent, and the cursor also passes what is not."""
    monkeypatch.setattr(webhooks, "MOST_CHANGES", 2)
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
        "model": None,
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
    """By default nothing old is sent, and with a number the changes from there on, or the next if there is none."""
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
    await sql.execute("truncate checkpointd.webhooks")
    await (sender := open_sender(**{"from": MOST_SEQ})).tick()
    assert 3 == (await view(sql))["cursor"]
    await add_statuses(sql, jobs["ftjob-a"], ["failed"])
    await sender.tick()
    assert ["failed"] == statuses(receiver.received[3:])


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
    groups, _ = await webhooks.read_feed(sender._store, 0, sender._webhook.selection)
    assert 1000 == max(group.size for group in groups)
    assert {1} == {len(group.changes) for group in groups}, "a message needs only the last change of a group"
