"""Senders that share a webhook, and are killed while they send: nothing is lost, and nothing overtakes."""

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import open_store
from checkpointd.provider.http import open_session
from service.faults.proxy import Proxy
from support.harness import until
from support.receiver import Received, Receiver
from support.senders import start_sender
from webhooks.conftest import Open

ADD = """
    insert into checkpointd.changes (job, kind, field, new_value)
    select key, 'status', 'status', n::text from generate_series(1, $1::int) as n, checkpointd.jobs order by n, key"""

SAVED = b"C\0\0\0\x0dUPDATE 1\0"
"""The answer of a server to a claim, or to a cursor that was moved."""


def check(received: Sequence[Received], count: int) -> int:
    """Check that every change arrived, in order, and that repeats carry the first id. Returns the number of repeats."""
    seqs = [request.message["data"]["seq"] for request in received]
    assert set(range(1, count + 1)) == set(seqs)
    assert all(one <= next_ for one, next_ in pairwise(seqs))
    ids = {(seq, request.id) for seq, request in zip(seqs, received, strict=True)}
    assert count == len(ids) == len({id_ for _, id_ in ids})
    return len(received) - count


@pytest.mark.usefixtures("jobs")
async def test_five_senders(url: str, sql: asyncpg.Connection, open_sender: Open, receiver: Receiver) -> None:
    """Five senders with connections of their own send each change once, in order, one at a time.

    A sender that dies during a request keeps its lease until it expires; then another one repeats this request alone.
    """
    await sql.execute(ADD, 15)
    arrived, rng = asyncio.Event(), random.Random(5)

    async def answer(_: Received) -> web.StreamResponse:
        arrived.set()
        await asyncio.sleep(rng.uniform(0, 0.005))
        return web.Response(status=204)

    receiver.answer = answer

    async def send(*, is_killed: bool) -> None:
        async with open_session() as http, open_store(lambda: connect(url), 1) as store:
            sender = open_sender()
            sender._store, sender._http = store, http
            if not is_killed:
                while len(receiver.received) < 31:
                    await sender.tick()
                    await asyncio.sleep(0.01)
                return
            sender._lease_seconds = 0.5
            dying = asyncio.create_task(sender.tick())
            await arrived.wait()
            store._pool.terminate()
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)

    await open_sender().tick()  # creates the row
    async with asyncio.TaskGroup() as group:
        group.create_task(send(is_killed=True))
        await arrived.wait()
        for _ in range(4):
            group.create_task(send(is_killed=False))
    assert 1 == check(receiver.received, 30)
    assert 1 == receiver.most_in_flight


class DyingReceiver:
    """Answers with faults. It halts at the stage `halts_at` of a request, so that it can be killed there."""

    STAGES = ("before reading", "after reading", "while answering")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.halts_at = ""
        self.reached = asyncio.Event()
        self.faults = 0
        """How many requests were read, and perhaps not answered with 204."""

    async def _halt(self, stage: str) -> None:
        if stage == self.halts_at:
            self.reached.set()
            await asyncio.Event().wait()  # for the end of the connection

    async def before_reading(self) -> None:
        """Come to the first stage."""
        await self._halt("before reading")

    async def answer(self, received: Received) -> web.StreamResponse:
        """Come to the other stages. Of 100 answers ten are lost, and five are failures."""
        self.faults += 1  # unless it comes to an answer: a sender can time out
        await self._halt("after reading")
        if self.halts_at in {"", "while answering"}:
            self.reached.set()
        await asyncio.sleep(self._rng.uniform(0, 0.01))
        fault = self._rng.random()
        if fault < 0.1:
            received.transport.abort()
        self.faults -= fault >= 0.15
        return web.Response(status=503 if 0.1 <= fault < 0.15 else 204)


@pytest.mark.slow
@pytest.mark.usefixtures("jobs")
async def test_two_hundred_kills(url: str, sql: asyncpg.Connection, receiver: Receiver) -> None:
    """Five processes that share a webhook lose nothing, in order, while senders and receiver are killed 200 times each.

    In turns two senders are killed, and the receiver twice: in the stages of a request. Answers of the receiver and of
    the database are lost, too.
    """
    rng = random.Random(7)
    dying = DyingReceiver(rng)
    receiver.answer, receiver.before_reading = dying.answer, dying.before_reading
    kills = {"sender": 0, **dict.fromkeys(dying.STAGES, 0)}

    async def reach(stage: str) -> None:
        dying.halts_at = stage
        dying.reached.clear()
        await sql.execute(ADD, 1)
        await dying.reached.wait()

    async with asyncio.timeout(500), Proxy(url) as proxy:
        senders = [start_sender(proxy.url, receiver.url) for _ in range(5)]
        while sum(kills.values()) < 400:
            await reach("")
            if rng.random() < 0.2:
                cuts, proxy.cut_at = proxy.cuts, SAVED
                await until(lambda: proxy.cuts > cuts)  # noqa: B023  # it ends within this pass
                proxy.cut_at = None
            await asyncio.sleep(rng.uniform(0, 0.01))
            for number in rng.sample(range(5), 2):
                senders[number].kill()
                senders[number].join()
                senders[number] = start_sender(proxy.url, receiver.url)
                kills["sender"] += 1
            for _ in range(2):
                await reach(stage := min(dying.STAGES, key=lambda stage: kills[stage]))
                if stage == "while answering":
                    await asyncio.sleep(rng.uniform(0, 0.01))
                await receiver.restart(rng.uniform(0, 0.02))
                dying.halts_at = ""
                kills[stage] += 1
        count = await sql.fetchval("select count(*) from checkpointd.changes")
        while await sql.fetchval("select coalesce(max(cursor), 0) from checkpointd.webhooks") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the senders are other processes
        for sender in senders:
            sender.kill()
    repeats = check(receiver.received, count)
    assert 0 < repeats <= sum(kills.values()) + dying.faults + proxy.cuts
    assert 0 < proxy.cuts
    assert 0 == await sql.fetchval("select undelivered from checkpointd.webhooks")
