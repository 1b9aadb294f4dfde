"""The program that reads the daemon's log stops reading."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import daemon_env, track
from support.harness import until_true
from support.provider import JOB, Provider, checkpoint, page
from support.servers import free_port
from support.verbs import PROGRAM, get, until_ok

pytestmark = pytest.mark.slow


def full_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe that has no room left."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b".")
    except BlockingIOError:
        os.set_blocking(writer, True)
        return reader, writer


async def test_nobody_reads_the_log(tmp_path: Path, url: str, sql: asyncpg.Connection, provider: Provider) -> None:
    """The daemon polls, answers on its status port and ends on SIGTERM while its log cannot be written."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await track(url, [JOB])
    port = free_port()
    env = daemon_env(tmp_path, url, provider.url, CHECKPOINTD_HTTP_PORT=str(port), CHECKPOINTD_DRAIN_SECONDS="1")
    reader, writer = full_pipe()
    process = await asyncio.create_subprocess_exec(*PROGRAM, "run", env=env, stdout=DEVNULL, stderr=writer)
    try:
        await until_ok(port, "/readyz")
        await until_true(sql, "select count(*) = 1 from checkpointd.checkpoints")
        provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2)])
        await until_true(sql, "select count(*) = 2 from checkpointd.checkpoints")
        assert 200 == (await get(port, "/livez"))[0]
        process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(reader)
        os.close(writer)
