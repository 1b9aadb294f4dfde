"""The daemon as a process: it follows jobs, outlives its database and its provider, and ends when told."""

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
from support.provider import JOB, Provider, checkpoint, error, held, page, paged
from support.verbs import KEY, PROGRAM, SILENCED, checkpointd, environment, running, wait_for_line

EPOCH = 1_767_225_600.0


async def _until(sql: asyncpg.Connection, query: str, *args: object) -> None:
    """Wait until a query says true: another process writes, and gives no event."""
    async with asyncio.timeout(60):
        while not await sql.fetchval(query, *args):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_follows_a_job_to_its_end(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """`run` follows a job from queued to succeeded, keeps what the provider dropped, and drains on SIGTERM."""
    now = [EPOCH]
    world = World(3, 12, EPOCH)
    job = next(
        j["id"] for j in world.jobs(EPOCH + 86400)
        if j["status"] == "succeeded" and j["created_at"] > EPOCH and len(world.checkpoints(j["id"], EPOCH + 86400)) > 4
    )  # fmt: skip
    created = world.job(job, EPOCH + 86400)["created_at"]
    now[0] = created + 1.0
    assert world.job(job, now[0])["status"] in {"validating_files", "queued"}
    async with serve(world, lambda: now[0]) as api:
        env = environment(tmp_path, url, api, CHECKPOINTD_MIN_POLL_SECONDS="0.1", CHECKPOINTD_MAX_POLL_SECONDS="0.2",
                          CHECKPOINTD_JOB_LIST_SECONDS="0.1")  # fmt: skip
        await checkpointd("track", job, env=env)
        async with running("run", env=env) as daemon:
            while True:
                status = world.job(job, now[0])["status"]
                await _until(sql, "select status = $1 from fine_tuning.jobs", status)
                published = [c["id"] for c in world.checkpoints(job, now[0])[:3]]
                await _until(sql, "select array_agg(id) @> $1 from fine_tuning.checkpoints" if published else
                             "select cardinality($1::text[]) = 0", published)  # fmt: skip
                if status == "succeeded" and now[0] > created + 86400:
                    break
                now[0] += 60 if status != "succeeded" else 86400
            dropped = "select count(*) = $1 from fine_tuning.checkpoints where missing_since is not null"
            await _until(sql, dropped, len(world.checkpoints(job, now[0])) - 3)
            daemon.terminate()
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
    every = {c["id"] for c in world.checkpoints(job, now[0])}
    assert len(every) > 4
    assert every == {row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")}
    statuses = await sql.fetch("select new_value from fine_tuning.changes where kind = 'status' order by seq")
    assert statuses[0]["new_value"] in {"validating_files", "queued"}
    assert ["running", "succeeded"] == [row["new_value"] for row in statuses][-2:]
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where lease_expires_at is not null")


async def test_waits_for_the_database(provider: Provider, tmp_path: Path) -> None:
    """With the database down at start, and then without its schema, `run` waits and says so; then it goes on."""
    database = EmbeddedPostgres(tmp_path / "postgres", sync=False)
    url = await database.start_or_connect()
    await database.stop()
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
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
    """`run 2>&-` polls and ends as ever, and no connection gets the number of standard error."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env, program=SILENCED) as daemon:
        await _until(sql, "select exists (select from fine_tuning.checkpoints)")
        if sys.platform.startswith("linux"):
            assert os.devnull == os.readlink(f"/proc/{daemon.pid}/fd/2")  # noqa: PTH115  # async code may not use Path
        daemon.terminate()
        assert (b"", b"") == await asyncio.wait_for(daemon.communicate(), 60)
        assert 0 == daemon.returncode


async def test_api_down(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A provider that is down ends nothing: the job's failures are counted, and it recovers."""
    provider = Provider()
    await provider.__aenter__()
    env = environment(
        tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1", CHECKPOINTD_MAX_POLL_SECONDS="0.1"
    )
    await provider.__aexit__()
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "poll.failed")
        await _until(sql, "select consecutive_failures > 0 and error_class = 'network' from fine_tuning.freshness")
        assert daemon.returncode is None


async def test_trouble_with_a_source_is_told(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A key that polls are refused with is one warning, however many jobs there are; a failure of many jobs, too."""
    jobs = [f"ftjob-{n:02d}" for n in range(30)]
    for name in jobs:
        provider.checkpoints[name] = error(500)
    env = environment(tmp_path, url, provider.url)
    await checkpointd("track", *jobs, env=env)
    async with running("run", env=env) as daemon:
        told = json.loads(await wait_for_line(daemon, "poll.failed"))
        assert (len(told["jobs"]), "server_error") == (min(told["polls"], 20), told["error_class"])
        await _until(sql, "select count(*) = 30 from fine_tuning.freshness where consecutive_failures > 0")
        for name in jobs:
            provider.checkpoints[name] = error(401)
        await sql.execute("update checkpointd.polling set next_poll_at = now()")
        assert '"error_class": "refused"' in await wait_for_line(daemon, "source.refused")
        daemon.terminate()
        assert daemon.stderr is not None
        left = (await daemon.stderr.read()).decode()
        assert "source.refused" not in left
        assert 0 == await daemon.wait()


async def test_a_fault_of_its_own_is_told(url: str, provider: Provider, tmp_path: Path) -> None:
    """A bug in a ring ends the daemon in order, with a line of its log, status 1, and no secret."""
    broken = f"""
from checkpointd import __main__
from checkpointd.polling import poller
async def tick(self):
    raise KeyError("{KEY}")
poller.Poller.tick = tick
__main__.main()"""
    async with running(
        "run", env=environment(tmp_path, url, provider.url), program=(sys.executable, "-c", broken)
    ) as one:
        out, err = await asyncio.wait_for(one.communicate(), 60)
    assert 1 == one.returncode
    events = [json.loads(line)["event"] for line in err.decode().splitlines()[:-1]]
    assert ["daemon.crashed", "daemon.draining", "daemon.stopped"] == events[-3:]
    assert "checkpointd: stopped by a fault of its own: see daemon.crashed in the log" == err.decode().splitlines()[-1]
    assert KEY.encode() not in out + err


LOOKS_UP_FOR_EVER = """
import socket, sys, threading
from checkpointd import __main__

known = socket.getaddrinfo

def getaddrinfo(host, *more, **others):
    if host != "provider.invalid":
        return known(host, *more, **others)
    print("looking up", file=sys.stderr, flush=True)
    threading.Event().wait(60)
    raise socket.gaierror

socket.getaddrinfo = getaddrinfo
__main__.main()
"""


@pytest.mark.parametrize(("verb", "signalled", "code"), [("run", True, 0), ("sync", True, 130), ("sync", False, 1)])
async def test_a_name_lookup_that_hangs_holds_up_no_end(
    url: str, tmp_path: Path, verb: str, signalled: bool, code: int
) -> None:
    """A process is gone as soon as its work is ended in order, and all is said, though its resolver still waits."""
    env = environment(tmp_path, url, "https://provider.invalid/v1", CHECKPOINTD_DRAIN_SECONDS="6",
                      CHECKPOINTD_REQUEST_TIMEOUT_SECONDS="10" if signalled else "0.2")  # fmt: skip
    await checkpointd("track", JOB, env=env)
    async with running(verb, env=env, program=(sys.executable, "-c", LOOKS_UP_FOR_EVER)) as one:
        await wait_for_line(one, "looking up")
        if signalled:
            one.terminate()
        out, err = await asyncio.wait_for(one.communicate(), 6 if signalled else 20)
    lines = err.decode().splitlines()
    assert code == one.returncode
    if verb == "run":
        assert "daemon.stopped" == json.loads(lines[-1])["event"]
    elif signalled:
        assert "checkpointd: interrupted" == lines[-1]
    else:
        assert f"{JOB}: timeout: no complete answer within 0.2 s" == lines[-1]
        assert out.endswith(b"1 failed\n")


async def test_a_pass_in_the_background_can_be_ended(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """SIGTERM interrupts a command that a shell started with &, and so to ignore SIGINT."""
    provider.checkpoints[JOB], reached, _ = held(page([]))
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_DRAIN_SECONDS="0.5")
    await checkpointd("track", JOB, env=env)
    deaf = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh", *PROGRAM)
    async with running("sync", env=env, program=deaf) as one:
        await asyncio.wait_for(reached.wait(), 60)
        one.terminate()
        _, err = await asyncio.wait_for(one.communicate(), 60)
    assert (130, b"checkpointd: interrupted\n") == (one.returncode, err)
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where lease_expires_at is not null")


async def test_second_signal_cuts_short(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A second SIGTERM ends a drain that would wait for a slow answer; its job is free at once."""
    reached = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.checkpoints[JOB] = never
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_DRAIN_SECONDS="60", CHECKPOINTD_LEASE_SECONDS="120",
                      CHECKPOINTD_REQUEST_TIMEOUT_SECONDS="60")  # fmt: skip
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await asyncio.wait_for(reached.wait(), 60)
        daemon.terminate()
        await wait_for_line(daemon, "daemon.draining")
        daemon.terminate()
        assert 0 == await asyncio.wait_for(daemon.wait(), 25)  # of the 60 s of a drain polls would have half
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where lease_expires_at is not null")


async def test_kill_during_a_burst(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Killed with -9 at each page of a burst of four pages, and in its save, the daemon loses nothing.

    Each round the provider lists twenty more checkpoints, newest first, in pages of five: whoever remembered the newest
    one it saw, or stopped at one it knew, would never see those below it.
    """
    items = [checkpoint(n) for n in range(3, 0, -1)]
    pages_until_kill: list[int] = [0]
    killed = asyncio.Event()
    listing = paged(items)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await listing(request)
        pages_until_kill[0] -= 1
        if pages_until_kill[0] == 0:
            killed.set()
        return response

    provider.checkpoints[JOB] = answer
    often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.05", "CHECKPOINTD_MAX_POLL_SECONDS": "0.05"}
    small = {"CHECKPOINTD_LEASE_SECONDS": "2", "CHECKPOINTD_PAGE_SIZE": "5"}
    env = environment(tmp_path, url, provider.url, **often, **small)
    await checkpointd("track", JOB, env=env)
    for round_ in range(10):
        items[:0] = [checkpoint(n) for n in range(len(items) + 20, len(items), -1)]
        killed.clear()
        pages = len(items) // 5 + 1
        # The last rounds die with all pages read: while the poll is being saved.
        pages_until_kill[0] = round_ + 1 if round_ < 6 else pages
        async with running("run", env=env) as daemon:
            await asyncio.wait_for(killed.wait(), 60)
            if round_ >= 6:
                await asyncio.sleep(0.01 * (round_ - 6))
            daemon.kill()
            await daemon.wait()
        await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
        bursts = await sql.fetch(
            "select count(*) from fine_tuning.checkpoints where step_number > 3 group by (step_number - 4) / 20"
        )
        assert {20} >= {row["count"] for row in bursts}, "half a burst was committed"
    async with running("run", env=env):
        await _until(sql, "select count(*) = $1 from fine_tuning.checkpoints", len(items))
    new = "select count(*), count(distinct checkpoint_id) from fine_tuning.changes where kind = 'new'"
    assert [(len(items), len(items))] == [tuple(row) for row in await sql.fetch(new)]


async def test_a_database_that_hangs_holds_up_no_stop(provider: Provider, tmp_path: Path) -> None:
    """With a database that freezes in the middle of the work, SIGTERM ends the daemon in a few seconds."""
    async with EmbeddedPostgres(tmp_path / "postgres", sync=False) as database:
        often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.1"}
        env = environment(tmp_path, database.url, provider.url, **often, CHECKPOINTD_DRAIN_SECONDS="1")
        await checkpointd("migrate", env=env)
        provider.checkpoints[JOB] = page([checkpoint(1)])
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as daemon:
            await wait_for_line(daemon, "poll.changed")
            sql = await asyncpg.connect(database.url)
            frozen = [
                row["pid"] for row in await sql.fetch("select pid from pg_stat_activity where pid <> pg_backend_pid()")
            ]
            await sql.close()
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(0.5)  # in which a claim and a save begin to hang
                daemon.terminate()
                assert 0 == await asyncio.wait_for(daemon.wait(), 10)
            finally:
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
