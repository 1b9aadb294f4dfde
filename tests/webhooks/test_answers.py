"""What follows from an answer: a delivery, another attempt and when, or an end that is recorded."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from checkpointd.telemetry.hidden import redact
from support.receiver import SECRET, Received, Receiver
from webhooks.conftest import Open, add_statuses, attempt_now, statuses, view

SECRET_2 = "whsec_" + SECRET[:5:-1]


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


async def test_refusals_before_a_failure(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Refusals make no gap longer: the first failure after them is logged, and followed by the first gap."""
    await (sender := open_sender()).tick()
    receiver.answer_once(400, 400, 400, 503, 503)
    for n in range(3):
        await add_statuses(sql, jobs["ftjob-a"], [str(n)])
        await sender.tick()
        row = await view(sql)
        assert ("failing", n + 1) == (row["state"], row["failures"])
    await add_statuses(sql, jobs["ftjob-a"], ["running"])
    for n, gap in enumerate((5, 10)):
        await attempt_now(sql)
        await sender.tick()
        assert (n + 1, gap) == tuple(
            await sql.fetchrow("""
            select failures, extract(epoch from next_attempt_at - attempt_at)::int from checkpointd.webhooks""")
        )
        assert 1 == capsys.readouterr().out.count("webhook.failing") + n


async def test_three_days(sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver) -> None:
    """When an endpoint has failed for three days, messages of that age end after an attempt. Younger ones are kept."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued", "running"], "now() - interval '4 days'")
    await add_statuses(sql, jobs["ftjob-a"], ["succeeded"])

    async def refuse(_: Received) -> web.StreamResponse:
        return web.Response(status=503)

    receiver.answer = refuse
    await (sender := open_sender()).tick()
    await sender.tick()
    assert 0 == (await view(sql))["undelivered_count"], "the endpoint has not failed for three days"
    await sql.execute(
        """update checkpointd.webhooks
        set next_attempt_at = now(), failing_since = now() - interval '3 days 1 s', failures = 11"""
    )
    receiver.received.clear()
    await sender.tick()
    assert ["queued", "running", "succeeded"] == statuses(receiver.received)
    row = await view(sql)
    assert (2, 2, 2, "failing") == tuple(
        row[name] for name in ("undelivered_count", "last_undelivered_seq", "cursor", "state")
    )
    receiver.answer = None
    await attempt_now(sql)
    receiver.received.clear()
    await sender.tick()
    assert ["succeeded"] == statuses(receiver.received)


async def test_a_clock_that_is_ahead(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """A step of the database's clock ends no delivery, until twelve attempts in a row have failed."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"], "now() - interval '4 days'")
    await (sender := open_sender()).tick()
    receiver.answer_once(*[503] * 12)
    for failures in range(1, 13):
        assert 0 == (await view(sql))["undelivered_count"]
        await sender.tick()
        assert failures == len(receiver.received)
        # The clock was right at the first attempt, and is a month ahead at the others.
        await sql.execute("update checkpointd.webhooks set failing_since = now() - interval '30 days'")
        await attempt_now(sql)
    assert 1 == (await view(sql))["undelivered_count"]


async def test_a_message_that_the_endpoint_cannot_handle(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver
) -> None:
    """A message that fails for three days ends alone: those behind it, of the same age, are delivered."""
    await add_statuses(sql, jobs["ftjob-a"], ["too much", "running", "succeeded"], "now() - interval '4 days'")

    async def answer(received: Received) -> web.StreamResponse:
        return web.Response(status=500 if b"too much" in received.body else 204)

    receiver.answer = answer
    await (sender := open_sender()).tick()
    await sender.tick()
    await sql.execute(
        """update checkpointd.webhooks
        set next_attempt_at = now(), failing_since = now() - interval '3 days 1 s', failures = 11"""
    )
    await sender.tick()
    assert ["too much", "too much", "running", "succeeded"] == statuses(receiver.received)
    row = await view(sql)
    assert ("ok", 1, 1, 2) == tuple(
        row[name] for name in ("state", "undelivered_count", "last_undelivered_seq", "delivered_count")
    )


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


async def test_a_replaced_secret(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A new URL and a new secret are used from the next attempt on. While a file is empty, its last text is used."""
    (tmp_path / "url").write_text(f"{receiver.origin}/first")
    (tmp_path / "secret").write_text(SECRET)
    sender = open_sender(url={"credential": str(tmp_path / "url")}, secret=str(tmp_path / "secret"))
    await sender.tick()
    used = []
    for status, change in (
        ("queued", {}), ("running", {"secret": SECRET_2}), ("paused", {"secret": ""}),
        ("resuming", {"url": f"{receiver.origin}/second"}),
    ):  # fmt: skip
        for name, text in change.items():
            (tmp_path / name).write_text(text)
        await add_statuses(sql, jobs["ftjob-a"], [status])
        await sender.tick()
        request = receiver.received[-1]
        accepted = [key for key in (SECRET, SECRET_2) if _is_accepted(request, key)]
        used.append((request.message["data"]["changes"][0]["new_value"], request.path, *accepted))
        if status == "paused":
            (tmp_path / "secret").write_text(SECRET_2)
    assert [
        ("queued", "/first", SECRET), ("running", "/first", SECRET_2), ("paused", "/first", SECRET_2),
        ("resuming", "/second", SECRET_2),
    ] == used  # fmt: skip
    log = capsys.readouterr().out
    assert 2 == log.count("webhook.secret_changed")
    hidden_from = "".join(map(redact, (SECRET_2, "/second")))
    assert SECRET_2[6:] not in log + hidden_from


def _is_accepted(request: Received, secret: str) -> bool:
    """Return whether the library of Standard Webhooks accepts the signature of a request."""
    try:
        Webhook(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


async def test_no_secret_is_shown(
    sql: asyncpg.Connection, jobs: dict[str, int], open_sender: Open, receiver: Receiver, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Neither the secret nor the path of a secret URL is in a row or in the log, whatever the endpoint answers."""
    await add_statuses(sql, jobs["ftjob-a"], ["queued"])
    (tmp_path / "url").write_text(f"{receiver.origin}/services/the-secret-path")
    await (sender := open_sender(url={"credential": str(tmp_path / "url")})).tick()

    async def echo(received: Received) -> web.StreamResponse:
        text = f"{received.path} {SECRET} {received.headers['webhook-signature']}"
        return web.Response(status=500, text=text, reason=text, headers={"Location": text})

    receiver.answer = echo
    await sender.tick()
    await receiver.stop()
    await attempt_now(sql)
    await sender.tick()
    shown = f"{await view(sql)} {await sql.fetchrow('select * from checkpointd.webhooks')} {capsys.readouterr()}"
    assert "webhook.failing" in shown
    assert [] == [text for text in ("the-secret-path", SECRET, SECRET[6:], "v1,") if text in shown]
