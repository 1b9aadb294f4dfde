"""How long commands take to start, compared with an empty Python in the same run: `make startup`.

The database is an embedded one, with a migrated schema and jobs. Times are medians, from the start of the process: of
the help and the lists to the end of the process, of the daemon to the line `daemon.ready`, and of the status page from
the request to the whole answer. The processor time of the page is that of the daemon and of the database.
"""

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import asyncpg

from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from support import stored, verbs
from support.servers import free_port
from support.verbs import PROGRAM

EMPTY = "python -c pass"
LIBRARIES = "import asyncpg, pydantic_settings, typer"
PAGE = "the list of jobs"
GOALS = {"--help": 0.25, "jobs": 0.25, "status": 0.25, "run, until it is ready": 1.0, PAGE: 0.05}
"""In seconds."""


class Times(NamedTuple):
    """Seconds by the clock, and those of the processor. On a machine that does other work, the latter say more."""

    elapsed: float
    processor: float


async def _median(times: int, measured: Callable[[], Awaitable[Times]]) -> Times:
    runs = [await measured() for _ in range(times)]
    return Times(statistics.median(run.elapsed for run in runs), statistics.median(run.processor for run in runs))


def _processor_seconds(processes: set[int]) -> float:
    """Return the processor time of these processes and of their children that still run (proc(5))."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            if {int(path.parent.name), int(fields[1])} & processes:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _ended(*command: str, env: dict[str, str]) -> Times:
    """Return the times of a process from its start to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Times(time.perf_counter() - started, processor)


async def _ready(env: dict[str, str]) -> Times:
    """Return the times of the daemon until it is ready."""
    started = time.perf_counter()
    async with verbs.running("run", env=env, program=PROGRAM) as process:
        await verbs.wait_for_line(process, "daemon.ready")
        return Times(time.perf_counter() - started, _processor_seconds({process.pid}))


async def _listed(http: aiohttp.ClientSession, port: int, processes: set[int]) -> Times:
    """Return the times of 20 requests for the list of jobs, per request. The processor's are of these processes."""
    before, started = _processor_seconds(processes), time.perf_counter()
    for _ in range(20):
        async with http.get(f"http://127.0.0.1:{port}/") as response:
            await response.read()
            assert response.status == 200
    return Times((time.perf_counter() - started) / 20, (_processor_seconds(processes) - before) / 20)


async def measure(folder: Path, times: int, jobs: int) -> dict[str, Times]:
    """Return the times of so many runs, by what was measured. The status page lists so many jobs."""
    async with EmbeddedPostgres(folder / "postgres", sync=False) as server:
        connection = await connect(server.url)
        await migrations.migrate(connection)
        await connection.close()
        env = verbs.environment(folder, server.url, "http://127.0.0.1:9/v1")
        await _ended(*PROGRAM, "track", "ftjob-abc123", env=env)
        commands = {
            EMPTY: (sys.executable, "-c", "pass"),
            LIBRARIES: (sys.executable, "-c", LIBRARIES),
            **{verb: (*PROGRAM, verb) for verb in ("--help", "jobs", "status")},
        }
        found = {}
        for name, command in commands.items():
            found[name] = await _median(times, lambda command=command: _ended(*command, env=env))  # type: ignore[misc]
        found["run, until it is ready"] = await _median(times, lambda: _ready(env))
        sql = await asyncpg.connect(server.url)
        await stored.fill(sql, jobs, 10)
        await sql.execute("vacuum")
        await sql.close()
        port = free_port()
        env |= {"CHECKPOINTD_HTTP_PORT": str(port)}
        async with verbs.running("run", env=env, program=PROGRAM) as process, aiohttp.ClientSession() as http:
            await verbs.wait_for_line(process, "daemon.ready")
            server_process = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
            processes = {process.pid, server_process}
            await _listed(http, port, processes)  # the server plans a statement anew in its first executions
            found[PAGE] = await _median(times, lambda: _listed(http, port, processes))
    return found


def main() -> None:
    """Print the medians, and whether they meet the goals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=15, help="runs of each command")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs on the status page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkpointd-bench-") as folder:
        found = asyncio.run(measure(Path(folder), given.times, given.jobs))
    print(f"| | median | times `{EMPTY}` | processor | times `{EMPTY}` | goal | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, times in found.items():
        cells = [name]
        for seconds, floor in zip(times, found[EMPTY], strict=True):
            cells += [f"{seconds:.3f} s", f"{seconds / floor:.1f}"]
        goal = GOALS.get(name)
        verdict = "met" if goal and times.elapsed <= goal else "missed"
        print(f"| {' | '.join([*cells, *([f'{goal:g} s', verdict] if goal else ['', ''])])} |")


if __name__ == "__main__":
    main()
