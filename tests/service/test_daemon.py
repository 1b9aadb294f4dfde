"""The daemon as a process: it follows jobs, survives failures of its database and provider, and stops on signals."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.simulator.server import serve
from checkpointd.simulator.world import World
from support.harness import until_true
from support.provider import JOB, Provider, checkpoint, error, held, page, paged
from support.verbs import KEY, PROGRAM, SILENCED, checkpointd, environment, running, wait_for_line

EPOCH = 1_767_225_600.0
LEASES = "select count(*) from checkpointd.polling where lease_expires_at is not null"
CHECKPOINTS = "select count(*) from fine_tuning.checkpoints"
SESSIONS = "select from pg_stat_activity where application_name = 'checkpointd' and datname = current_database()"


def _env(home: Path, url: str, api: str, **settings: str) -> dict[str, str]:
    """Return the environment of a process with these settings, named without their prefix."""
    return environment(home, url, api, **{f"CHECKPOINTD_{name}": value for name, value in settings.items()})


async def test_follows_a_job_to_its_end(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`run` follows a job from queued to succeeded, keeps what the provider stops listing, and drains on SIGTERM."""
    world = World(3, 12, EPOCH)
    day_later = EPOCH + 86400
    job = next(
        job["id"]
        for job in world.jobs(day_later)
        if job["status"] == "succeeded"
        and job["created_at"] > EPOCH
        and len(world.checkpoints(job["id"], day_later)) > 4
    )
    created = world.job(job, day_later)["created_at"]
    now = [created + 1.0]
    assert world.job(job, now[0])["status"] in {"validating_files", "queued"}
    async with serve(world, lambda: now[0]) as api:
        env = _env(tmp_path, url, api, MIN_POLL_SECONDS="0.1", MAX_POLL_SECONDS="0.2", JOB_LIST_SECONDS="0.1")
        await checkpointd("track", job, env=env)
        async with running("run", env=env) as daemon:
            while True:
                status = world.job(job, now[0])["status"]
                await until_true(sql, "select status = $1 from fine_tuning.jobs", status)
                published = [c["id"] for c in world.checkpoints(job, now[0])[:3]]
                if published:
                    await until_true(sql, "select array_agg(id) @> $1 from fine_tuning.checkpoints", published)
                if status == "succeeded" and now[0] > created + 86400:
                    break
                now[0] += 60 if status != "succeeded" else 86400
            missing = "select count(*) = $1 from fine_tuning.checkpoints where missing_since is not null"
            await until_true(sql, missing, len(world.checkpoints(job, now[0])) - 3)
            daemon.terminate()
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
    all_published = {c["id"] for c in world.checkpoints(job, now[0])}
    assert len(all_published) > 4
    assert all_published == {row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")}
    statuses = await sql.fetch("select new_value from fine_tuning.changes where kind = 'status' order by seq")
    assert statuses[0]["new_value"] in {"validating_files", "queued"}
    assert ["running", "succeeded"] == [row["new_value"] for row in statuses][-2:]
    assert 0 == await sql.fetchval(LEASES)


async def test_waits_for_the_database(provider: Provider, tmp_path: Path) -> None:
    """If the database is down at the start, and then has no schema, `run` waits and logs why; then it works."""
    database = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    url = await database.start_or_connect()
    await database.stop()
    env = _env(tmp_path, url, provider.url, MIN_POLL_SECONDS="0.1")
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with running("run", env=env) as daemon:
        assert "daemon.waiting" in await wait_for_line(daemon, "database: ")
        await database.start_or_connect()
        await wait_for_line(daemon, "checkpointd migrate")
        await checkpointd("migrate", env=env)
        await wait_for_line(daemon, "daemon.ready")
        await checkpointd("track", JOB, env=env)
        await wait_for_line(daemon, "poll.changed")
        await database.stop()
        await wait_for_line(daemon, "database.unavailable")
        await database.start_or_connect()
        await wait_for_line(daemon, "database.recovered")
        daemon.terminate()
        assert 0 == await asyncio.wait_for(daemon.wait(), 60)
    await database.stop()


async def test_standard_error_is_closed(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`run 2>&-` polls and stops as usual, and no connection gets the file descriptor of standard error."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env, program=SILENCED) as daemon:
        await until_true(sql, "select exists (select from fine_tuning.checkpoints)")
        if sys.platform.startswith("linux"):
            assert os.devnull == os.readlink(f"/proc/{daemon.pid}/fd/2")  # noqa: PTH115  # async code may not use Path
        daemon.terminate()
        assert (b"", b"") == await asyncio.wait_for(daemon.communicate(), 60)
        assert 0 == daemon.returncode


async def test_provider_is_down(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A provider that is down does not stop the daemon: the source is failing, and the job is not blamed."""
    async with Provider() as provider:
        api = provider.url
    env = _env(tmp_path, url, api, MIN_POLL_SECONDS="0.1", MAX_POLL_SECONDS="0.1")
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        assert '"error_class": "unreachable"' in await wait_for_line(daemon, "source.failing")
        await until_true(sql, "select state = 'failing' from fine_tuning.sources")
        assert 0 == await sql.fetchval("select consecutive_failures from fine_tuning.freshness")
        assert daemon.returncode is None


async def test_seal_by_a_clock_that_was_ahead(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A daemon looks for jobs that were sealed by a clock that was ahead, and polls them."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", JOB, env=env)
    await sql.execute("update checkpointd.polling set sealed_at = now() + interval '30 d', next_poll_at = 'infinity'")
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "database.jobs_reopened")
        await wait_for_line(daemon, "poll.changed")


async def test_one_warning_for_many_jobs(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A failure of many jobs is logged as one warning; so is a refused key, whatever the number of jobs."""
    jobs = [f"ftjob-{n:02d}" for n in range(30)]
    for name in jobs:
        provider.checkpoints[name] = page([], has_more=True)
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", *jobs, env=env)
    async with running("run", env=env) as daemon:
        warning = json.loads(await wait_for_line(daemon, "poll.failed"))
        assert (len(warning["jobs"]), "empty_page") == (min(warning["polls"], 20), warning["error_class"])
        all_failed = "select count(*) = 30 from fine_tuning.freshness where consecutive_failures > 0"
        await until_true(sql, all_failed)
        for name in jobs:
            provider.checkpoints[name] = error(401)
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        assert '"error_class": "refused"' in await wait_for_line(daemon, "source.refused")
        daemon.terminate()
        assert daemon.stderr is not None
        rest_of_log = (await daemon.stderr.read()).decode()
        assert "source.refused" not in rest_of_log
        assert 0 == await daemon.wait()


async def test_internal_error(url: str, provider: Provider, tmp_path: Path) -> None:
    """An error of checkpointd itself in a tick stops the daemon in order: it is logged, without a secret; status 1."""
    program = f"""
from checkpointd import __main__
from checkpointd.polling import poller
async def tick(self):
    raise KeyError("{KEY}")
poller.Poller.tick = tick
__main__.main()"""
    env = environment(tmp_path, url, provider.url)
    async with running("run", env=env, program=(sys.executable, "-c", program)) as daemon:
        out, err = await asyncio.wait_for(daemon.communicate(), 60)
    assert 1 == daemon.returncode
    *log, message = err.decode().splitlines()
    assert ["daemon.crashed", "daemon.draining", "daemon.stopped"] == [json.loads(line)["event"] for line in log][-3:]
    assert "checkpointd: stopped by an error of checkpointd itself: see daemon.crashed in the log" == message
    assert KEY.encode() not in out + err


RESOLVER_THAT_HANGS = """
import socket, sys, threading
from checkpointd import __main__

getaddrinfo = socket.getaddrinfo

def hang(host, *args, **kwargs):
    if host != "provider.invalid":
        return getaddrinfo(host, *args, **kwargs)
    print("looking up", file=sys.stderr, flush=True)
    threading.Event().wait(60)
    raise socket.gaierror

socket.getaddrinfo = hang
__main__.main()
"""


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(("verb", "signalled", "code"), [("run", True, 0), ("sync", True, 130), ("sync", False, 1)])
async def test_name_lookup_that_hangs_delays_no_exit(
    url: str, tmp_path: Path, verb: str, signalled: bool, code: int
) -> None:
    """A process exits as soon as its work has ended and its messages are printed, even if its resolver still waits."""
    env = _env(
        tmp_path,
        url,
        "https://provider.invalid/v1",
        DRAIN_SECONDS="6",
        REQUEST_TIMEOUT_SECONDS="10" if signalled else "0.2",
    )
    await checkpointd("track", JOB, env=env)
    async with running(verb, env=env, program=(sys.executable, "-c", RESOLVER_THAT_HANGS)) as process:
        await wait_for_line(process, "looking up")
        if signalled:
            process.terminate()
        out, err = await asyncio.wait_for(process.communicate(), 6 if signalled else 20)
    last_line = err.decode().splitlines()[-1]
    assert code == process.returncode
    if verb == "run":
        assert "daemon.stopped" == json.loads(last_line)["event"]
    elif signalled:
        assert "checkpointd: interrupted" == last_line
    else:
        assert f"{JOB}: timeout: no complete response within 0.2 s" == last_line
        assert out.endswith(b"1 failed\n")


async def test_sync_in_the_background_can_be_interrupted(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """SIGTERM interrupts a command that a shell has started with `&`, for which SIGINT is ignored."""
    provider.checkpoints[JOB], reached, _ = held(page([]))
    env = _env(tmp_path, url, provider.url, DRAIN_SECONDS="0.5")
    await checkpointd("track", JOB, env=env)
    without_sigint = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh", *PROGRAM)
    async with running("sync", env=env, program=without_sigint) as process:
        await asyncio.wait_for(reached.wait(), 60)
        process.terminate()
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (130, b"checkpointd: interrupted\n") == (process.returncode, err)
    assert 0 == await sql.fetchval(LEASES)


async def test_second_signal_ends_the_drain(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A second SIGTERM ends a drain that waits for a slow response; the job of that poll is released."""
    reached = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.checkpoints[JOB] = never
    env = _env(tmp_path, url, provider.url, DRAIN_SECONDS="60", LEASE_SECONDS="120", REQUEST_TIMEOUT_SECONDS="60")
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await asyncio.wait_for(reached.wait(), 60)
        daemon.terminate()
        await wait_for_line(daemon, "daemon.draining")
        daemon.terminate()
        assert 0 == await asyncio.wait_for(daemon.wait(), 25)  # less than the 30 s that a drain would wait for the poll
    assert 0 == await sql.fetchval(LEASES)


async def test_kill_during_a_burst(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A daemon that is killed with -9 at each page of a burst of four pages, or during its save, loses nothing.

    In each round the provider lists twenty more checkpoints, newest first, in pages of five. A program that remembers
    the newest checkpoint that it saw, or that stops at a known one, never sees those below it.
    """
    items = [checkpoint(n) for n in range(3, 0, -1)]
    pages_until_kill = 0
    kill_now = asyncio.Event()
    listing = paged(items)

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal pages_until_kill
        response = await listing(request)
        pages_until_kill -= 1
        if pages_until_kill == 0:
            kill_now.set()
        return response

    provider.checkpoints[JOB] = answer
    often = {"MIN_POLL_SECONDS": "0.05", "MAX_POLL_SECONDS": "0.05"}
    # With a short lease, a busy machine cuts listings off, and saves the pages that were read.
    env = _env(tmp_path, url, provider.url, **often, LEASE_SECONDS="60", PAGE_SIZE="5")
    await checkpointd("track", JOB, env=env)
    for round_ in range(10):
        items[:0] = [checkpoint(n) for n in range(len(items) + 20, len(items), -1)]
        kill_now.clear()
        is_during_save = round_ >= 6
        pages_until_kill = len(items) // 5 + 1 if is_during_save else round_ + 1
        async with running("run", env=env) as daemon:
            await asyncio.wait_for(kill_now.wait(), 60)
            if is_during_save:
                await asyncio.sleep(0.01 * (round_ - 6))  # each round kills at another moment of the save
            daemon.kill()
            await daemon.wait()
        await until_true(sql, f"select not exists ({SESSIONS})")  # the server may still run the last statement
        await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
        bursts = await sql.fetch(
            "select count(*) from fine_tuning.checkpoints where step_number > 3 group by (step_number - 4) / 20"
        )
        assert {20} >= {row["count"] for row in bursts}, "half a burst was committed"
    async with running("run", env=env):
        await until_true(sql, f"select ({CHECKPOINTS}) = $1", len(items))
    new = "select count(*), count(distinct checkpoint_id) from fine_tuning.changes where kind = 'new'"
    assert [(len(items), len(items))] == [tuple(row) for row in await sql.fetch(new)]


async def test_database_that_hangs_delays_no_stop(provider: Provider, tmp_path: Path) -> None:
    """If the database freezes during the work, SIGTERM still stops the daemon within ten seconds."""
    async with EmbeddedPostgres(tmp_path / "postgres", sync=False) as database:
        often = {"MIN_POLL_SECONDS": "0.1", "MAX_POLL_SECONDS": "0.1"}
        env = _env(tmp_path, database.url, provider.url, **often, DRAIN_SECONDS="1")
        await checkpointd("migrate", env=env)
        provider.checkpoints[JOB] = page([checkpoint(1)])
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as daemon:
            await wait_for_line(daemon, "poll.changed")
            sql = await asyncpg.connect(database.url)
            sessions = await sql.fetch("select pid from pg_stat_activity where pid <> pg_backend_pid()")
            await sql.close()
            for session in sessions:
                os.kill(session["pid"], signal.SIGSTOP)
            try:
                await asyncio.sleep(0.5)  # in this time a claim or a save begins, and hangs
                daemon.terminate()
                assert 0 == await asyncio.wait_for(daemon.wait(), 10)
            finally:
                for session in sessions:
                    os.kill(session["pid"], signal.SIGCONT)
