"""How fast are events read and stored, compared with a bare COPY of the same rows, and how many bytes does a step take?

A provider in another process serves prepared pages of 100 events on loopback: `make bench-events` prints the figures.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from aiohttp import web

from checkpointd.domain.event import STEP_METRICS
from checkpointd.polling.events import EventLists
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import configure

PAGE: Final = 100
GOAL: Final = 50_000
"""Steps per second, at least."""
MOST_BYTES: Final = 200
"""Of a step with its index entry."""
EMPTY: Final = "truncate checkpointd.steps, checkpointd.events, checkpointd.event_lists"


class Figures(NamedTuple):
    """The figures of one run."""

    steps_per_second: float
    cpu_seconds: float
    """Of this process: the daemon's part."""
    copied_per_second: float
    bytes_per_step: float


def _event(job: int, step: int, steps: int, *, is_full: bool) -> dict[str, Any]:
    """Return the event of a step: with the two metrics that most steps of OpenAI have, or with all six."""
    values = {name: round(0.1 + 1 / (step + number + 1), 6) for number, name in enumerate(STEP_METRICS)}
    kept = values if is_full else dict(list(values.items())[:2])
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{job:08x}{step:024x}" if is_full else f"ftevent-{job:08d}{step:016d}",
        "created_at": 1_767_225_600 + step,
        "level": "info",
        "message": f"Step {step}/{steps}: training loss={values['train_loss']:.2f}",
        "type": "metrics",
        "data": {"step": step, "total_steps": steps, **kept},
    }


def _serve(ready: Connection, jobs: int, steps: int, is_full: bool) -> None:  # an argument of a process
    """Serve the event lists of the jobs, each page prepared, until the process is killed."""
    pages: dict[tuple[str, str | None], bytes] = {}
    for job in range(jobs):
        events = [_event(job, step, steps, is_full=is_full) for step in range(steps, 0, -1)]
        cursor = None
        for start in range(0, steps, PAGE):
            page = events[start : start + PAGE]
            more = start + PAGE < steps
            body = json.dumps({"object": "list", "data": page, "has_more": more}, separators=(",", ":"))
            pages[f"ftjob-{job}", cursor] = body.encode()
            cursor = page[-1]["id"]

    async def list_events(request: web.Request) -> web.Response:
        body = pages[request.match_info["job"], request.query.get("after")]
        return web.Response(body=body, content_type="application/json")

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/v1/fine_tuning/jobs/{job}/events", list_events)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        await asyncio.Event().wait()

    asyncio.run(run())


async def _measure(store: Store, url: str, jobs: int) -> Figures:
    async with store.connection() as connection, open_session() as http:
        await connection.execute(EMPTY)
        key = (await store.register_sources({"bench": "openai"}))["bench"]
        await store.track(key, [f"ftjob-{job}" for job in range(jobs)])
        source = ActiveSource(key, "bench", Client(http, url, {}, {}, Limits(PAGE)), 16, None)
        lists = EventLists(store, source, Health(), gap=300, lease_seconds=60)
        cpu, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        await lists.tick()
        seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        rows = await connection.fetch("select * from checkpointd.steps")
        size = await connection.fetchval("select pg_total_relation_size('checkpointd.steps')")
        await connection.execute("create temp table copied (like checkpointd.steps including all)")
        await connection.execute(
            "drop table copied; create table checkpointd.copied (like checkpointd.steps including all)"
        )
        started = time.perf_counter()
        await connection.copy_records_to_table(
            "copied", schema_name="checkpointd", records=[tuple(row) for row in rows]
        )
        copied = time.perf_counter() - started
        await connection.execute("drop table checkpointd.copied")
    return Figures(
        len(rows) / seconds,
        used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime,
        len(rows) / copied,
        size / len(rows),
    )


async def _run(url: str, jobs: int, runs: int) -> list[Figures]:
    with tempfile.TemporaryDirectory(prefix="checkpointd-bench-") as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as server:
            await server.start_or_connect()
            connection = await connect(server.url)
            await migrations.migrate(connection)
            await connection.close()
            async with open_store(lambda: connect(server.url)) as store:
                return [await _measure(store, url, jobs) for _ in range(runs)]


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(arguments)
    configure("console", "warning")
    for name, is_full in (("two metrics", False), ("six metrics", True)):
        ready, sent = multiprocessing.Pipe()
        provider = multiprocessing.Process(target=_serve, args=(sent, given.jobs, given.steps, is_full), daemon=True)
        provider.start()
        try:
            figures = asyncio.run(_run(ready.recv(), given.jobs, given.runs))
        finally:
            provider.kill()
        speed, cpu, copied, size = (median(column) for column in zip(*figures, strict=True))
        print(
            f"{name}: {speed:,.0f} steps/s, {speed / copied:.2f} of a bare COPY ({copied:,.0f}/s);"
            f" {cpu / given.jobs / given.steps * 1e6:.1f} µs of CPU and {size:.0f} bytes a step;"
            f" goals: {GOAL:,} steps/s {_met(speed >= GOAL)}, {MOST_BYTES} bytes {_met(size <= MOST_BYTES)}"
        )


if __name__ == "__main__":
    main()
