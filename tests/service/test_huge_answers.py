"""No answer of a provider makes the daemon use much memory, or stand still. It is a process, measured from outside.

`HUGE=NAME` in the environment chooses one form of answers.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.reading import TEXT_CHARACTERS
from support.harness import until, until_true
from support.huge import NAME, PAGES, RECORDS
from support.provider import Provider, body, checkpoint, page
from support.servers import free_port
from support.verbs import PROGRAM, environment, running, until_ok

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]

JOBS = [f"ftjob-{number}" for number in range(16)]
AT_ONCE = {"a million zeros", "zeros", "an item of empty arrays", "deep nesting", "items with wide characters"}
"""The forms that all jobs get at once. Others are got by three jobs, because reading so many takes long."""

MOST_MIB = 160
MOST_SECONDS = 1.0

AT_REST = "select count(*) = 0 from checkpointd.polling where lease_expires_at is not null or next_poll_at <= now()"


class _Daemon:
    """A daemon, its memory beyond the start in MiB, and for how long it did not answer."""

    def __init__(self, pid: int, lag: asyncio.subprocess.Process) -> None:
        self._pid = pid
        self._lag = lag
        self._base = self._status("VmRSS")

    def peak(self) -> float:
        """Return the peak since the last call, and begin anew."""
        found = self._status("VmHWM") - self._base
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        return found

    async def lag(self) -> float:
        """Return the longest time of an answer since the last call."""
        assert self._lag.stdin
        assert self._lag.stdout
        self._lag.stdin.write(b"\n")
        return float(await self._lag.stdout.readline())

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@asynccontextmanager
async def _daemon(home: Path, url: str, provider: Provider, sql: asyncpg.Connection) -> AsyncIterator[_Daemon]:
    """Run a daemon that has polled each job once, and polls a job again only when the test makes it due."""
    port = free_port()
    settings = {
        "HTTP_PORT": port,
        "MIN_POLL_SECONDS": 3600,
        "MAX_POLL_SECONDS": 3600,
        "JOB_LIST_SECONDS": 3600,
        "LEASE_SECONDS": 300,
        "REQUEST_TIMEOUT_SECONDS": 60,
        "CONCURRENCY": len(JOBS),
    }
    env = environment(home, url, provider.url, **{f"CHECKPOINTD_{name}": str(n) for name, n in settings.items()})
    for name in JOBS:
        provider.checkpoints[name] = page([checkpoint(1, name)])
    provider.jobs = page([])
    async with running("run", env=env, program=PROGRAM) as process:
        await until_ok(port, "/readyz")
        await sql.execute("select checkpointd.track_jobs(key, $1) from checkpointd.sources where name = 'openai'", JOBS)
        await until_true(sql, "select count(*) = $1 from checkpointd.checkpoints", len(JOBS))
        lag = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "support.lag", str(port), str(process.pid), cwd=Path(__file__).parents[1],
            stdin=PIPE, stdout=PIPE,
        )  # fmt: skip
        try:
            yield _Daemon(process.pid, lag)
        finally:
            lag.kill()
            await lag.wait()


def _after_a_page(name: str, huge: Callable[[], bytes]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return an answer that follows a good page. So its failure concerns the job, and the source is polled on."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "after" not in request.query:
            return page([checkpoint(1, name)], has_more=True)
        return body(huge().replace(NAME.encode(), name.encode()))

    return answer


async def test_checkpoint_lists(url: str, sql: asyncpg.Connection, provider: Provider, tmp_path: Path) -> None:
    """Sixteen, or three, such lists at once take 160 MiB at most, and /livez answers within a second."""
    found = {}
    async with _daemon(tmp_path, url, provider, sql) as daemon:
        for form, make in PAGES.items():
            if form not in os.environ.get("HUGE", form):
                continue
            jobs = JOBS if form in AT_ONCE else JOBS[:3]
            for turn in range(1, 4 if "chang" in form or "new" in form else 2):
                huge = make(turn)
                for name in jobs:
                    provider.checkpoints[name] = _after_a_page(name, lambda huge=huge: huge)  # type: ignore[misc]
                await daemon.lag()
                daemon.peak()
                await sql.execute(
                    """update checkpointd.polling set next_poll_at = clock_timestamp()
                    where job in (select key from checkpointd.jobs where id = any($1))""",
                    jobs,
                )
                await until_true(sql, AT_REST, seconds=300)
                found[form, turn] = daemon.peak(), await daemon.lag()
                classes = await sql.fetch(
                    "select error_class, count(*), max(last_error) from checkpointd.polling group by 1"
                )
                print(f"{form} {turn}: %.0f MiB, %.2f s" % found[form, turn], *map(tuple, classes))  # noqa: T201
            assert 0 == await sql.fetchval("select count(*) from checkpointd.sources where state <> 'ok'")
    assert {} == {form: one for form, one in found.items() if one[0] > MOST_MIB or one[1] > MOST_SECONDS}


async def test_job_lists(url: str, sql: asyncpg.Connection, provider: Provider, tmp_path: Path) -> None:
    """Such a job list takes 160 MiB at most, and /livez answers within a second. No large document is stored."""
    found = {}
    async with _daemon(tmp_path, url, provider, sql) as daemon:
        for form, make in RECORDS.items():
            for turn in (1, 2):
                provider.jobs = body(make(turn))
                await daemon.lag()
                daemon.peak()
                asked = len(provider.requests)
                await sql.execute("update checkpointd.sources set job_list_due_at = '-infinity'")
                await until(lambda: len(provider.requests) > asked)  # noqa: B023
                await until_true(sql, "select job_list_lease_expires_at is null from checkpointd.sources", seconds=300)
                found[form, turn] = daemon.peak(), await daemon.lag()
                error = await sql.fetchval("select job_list_error from checkpointd.sources")
                print(f"{form} {turn}: %.0f MiB, %.2f s" % found[form, turn], error)  # noqa: T201
        largest = await sql.fetchval(
            "select max(octet_length(concat(hyperparameters, error, metadata))) from fine_tuning.jobs"
        )
    assert {} == {form: one for form, one in found.items() if one[0] > MOST_MIB or one[1] > MOST_SECONDS}
    assert largest < 3 * 4 * TEXT_CHARACTERS
