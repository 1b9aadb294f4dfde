"""A provider with one prepared answer for all jobs, and a database that already has what it lists."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from checkpointd.domain.listing import content_digest, digest, read_listing
from support.provider import checkpoint

CHECKPOINTS = 3


def _items(count: int) -> list[bytes]:
    """Return the items of a list, newest first, which name no job."""
    items = [checkpoint(100 * n, valid_loss=2 / n) for n in range(count, 0, -1)]
    for item in items:
        del item["fine_tuning_job_id"]
    return [json.dumps(item).encode() for item in items]


def _body(items: list[bytes]) -> bytes:
    return b'{"object": "list", "data": [' + b",".join(items) + b'], "has_more": false}'


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class _Connection(asyncio.Protocol):
    """A connection that gets the same checkpoints for each job, and an empty job list."""

    checkpoints = _answer(_body(_items(CHECKPOINTS)))
    jobs = _answer(_body([]))

    def __init__(self) -> None:
        self._transport = asyncio.Transport()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self.checkpoints if b"/checkpoints?" in request else self.jobs)


@asynccontextmanager
async def answering() -> AsyncIterator[str]:
    """Serve the lists on loopback. Yields the base URL."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def store_jobs(url: str, source: str, jobs: int, gap: float) -> None:
    """Store jobs of a source as they are after a poll of the prepared list. They run, and are due once in a gap."""
    items = _items(CHECKPOINTS)
    read = read_listing("", [items])
    sql = await asyncpg.connect(url)
    await sql.execute("insert into checkpointd.sources (name, kind) values ($1, 'openai')", source)
    await sql.execute(
        """insert into checkpointd.jobs (source, id, tracked_by, status, model)
        select s.key, 'ftjob-' || substr(md5(n::text), 1, 24), 'discovery', 'running', 'gpt-4o-mini-2024-07-18'
        from generate_series(1, $2::int) n, checkpointd.sources s where s.name = $1""",
        source,
        jobs,
    )
    await sql.execute(
        """insert into checkpointd.polling (job, source, next_poll_at, last_attempt_at, last_complete_at,
          last_success_at, last_change_at, gap_s, digest, content_digest, newest_step, newest_seen_at, arrivals,
          arrival_error_s, first_arrival_s, spacing_s, spread_s, publication_delay_s)
        select j.key, j.source, now() + random() * $2 * interval '1 s', now(), now(), now(), now(), $2, $3, $4, 300,
          now(), 3, 60, 600, 600, 60, 0
        from checkpointd.jobs j join checkpointd.sources s on s.key = j.source and s.name = $1""",
        source,
        gap,
        digest([_body(items)]),
        content_digest(read),
    )
    for item in read.checkpoints:
        await sql.execute(
            """insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint,
              train_loss, valid_loss, payload)
            select j.key, $2, $3, $4, $5, 1, 1, '{}'
            from checkpointd.jobs j join checkpointd.sources s on s.key = j.source and s.name = $1""",
            source,
            item.id,
            item.step_number,
            item.created_at,
            item.fine_tuned_model_checkpoint,
        )
    await sql.execute("select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs")
    await sql.execute("vacuum analyze")
    await sql.close()
