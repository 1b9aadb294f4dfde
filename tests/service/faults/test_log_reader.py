"""The program that reads the daemon's log stops reading, ends, or cannot store what it reads."""

import asyncio
import json
import os
import re
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import daemon_env, track
from support.harness import until_true
from support.provider import JOB, Provider, checkpoint, page
from support.servers import free_port
from support.verbs import PROGRAM, SILENCED, get, until_ok

pytestmark = pytest.mark.slow

Sink = Callable[[ExitStack], int | None]
"""Opens what a daemon writes its log to. Returns a file descriptor, or None to close standard error."""

JOBS = [f"ftjob-{number:04d}" for number in range(1100)]
"""More jobs, and so more lines, than the daemon's queue of log lines holds."""


@contextmanager
def closed_at_end(*descriptors: int) -> Iterator[tuple[int, ...]]:
    """Yield the descriptors, and close them."""
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def fill(descriptor: int) -> int:
    """Write until there is no room left. Return the descriptor, which blocks again."""
    os.set_blocking(descriptor, False)
    try:
        while True:
            os.write(descriptor, b"." * 512)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return descriptor


def full_pipe(stack: ExitStack) -> int:
    """Open a pipe whose reader has stopped."""
    _, writer = stack.enter_context(closed_at_end(*os.pipe()))
    return fill(writer)


def broken_pipe(stack: ExitStack) -> int:
    """Open a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    return stack.enter_context(closed_at_end(writer))[0]


def full_disk(stack: ExitStack) -> int:
    """Open a file on a disk that is full."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    return stack.enter_context(closed_at_end(os.open("/dev/full", os.O_WRONLY)))[0]


def full_socket(kind: int) -> Sink:
    """Return a sink: a socket, such as that of the journal, whose reader has stopped."""

    def opened(stack: ExitStack) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        stack.enter_context(ours)
        return fill(stack.enter_context(theirs).fileno())

    return opened


def closed_stream(_: ExitStack) -> None:
    """Let the daemon start with standard error closed."""


@asynccontextmanager
async def running_with(sink: int | None, env: dict[str, str]) -> AsyncIterator[Process]:
    """Run a daemon that writes its log to `sink`. It is killed if it still runs at the end."""
    program = SILENCED if sink is None else PROGRAM
    process = await asyncio.create_subprocess_exec(*program, "run", env=env, stdout=DEVNULL, stderr=sink)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def dropped_lines(port: int) -> int:
    """Return how many log lines a daemon has dropped."""
    _, metrics = await get(port, "/metrics")
    found = re.search(r"^checkpointd_log_lines_dropped_total ([0-9.]+)", metrics, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def end(process: Process) -> None:
    """End a daemon by SIGTERM, and require that it ends in time and without an error."""
    process.send_signal(signal.SIGTERM)
    assert 0 == await asyncio.wait_for(process.wait(), 20)


@pytest.mark.parametrize(
    ("sink", "drops"),
    [
        pytest.param(full_pipe, False, id="full-pipe"),
        pytest.param(broken_pipe, True, id="broken-pipe"),
        pytest.param(full_disk, True, id="full-disk"),
        pytest.param(full_socket(socket.SOCK_STREAM), False, id="stream"),
        pytest.param(full_socket(socket.SOCK_DGRAM), False, id="datagrams"),
        pytest.param(closed_stream, False, id="closed"),
    ],
)
async def test_nobody_reads_the_log(
    tmp_path: Path, url: str, sql: asyncpg.Connection, provider: Provider, sink: Sink, *, drops: bool
) -> None:
    """The daemon polls, answers on its status port and ends on SIGTERM while its log cannot be written.

    Lines that fail are counted at once. Those that wait for the reader are not lost yet.
    """
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await track(url, [JOB])
    port = free_port()
    env = daemon_env(tmp_path, url, provider.url, CHECKPOINTD_HTTP_PORT=str(port), CHECKPOINTD_DRAIN_SECONDS="1")
    with ExitStack() as stack:
        async with running_with(sink(stack), env) as process:
            await until_ok(port, "/readyz")
            await until_true(sql, "select count(*) = 1 from checkpointd.checkpoints")
            provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2)])
            await until_true(sql, "select count(*) = 2 from checkpointd.checkpoints")
            assert 200 == (await get(port, "/livez"))[0]
            assert drops == (await dropped_lines(port) > 0)
            await end(process)


async def test_the_reader_goes_on(tmp_path: Path, url: str, sql: asyncpg.Connection, provider: Provider) -> None:
    """Lines beyond the queue are counted, and when the reader goes on, one line says how many they were."""
    provider.checkpoints |= {job: page([checkpoint(number, job)]) for number, job in enumerate(JOBS, 1)}
    await track(url, JOBS)
    port = free_port()
    gaps = dict.fromkeys(("CHECKPOINTD_MIN_POLL_SECONDS", "CHECKPOINTD_MAX_POLL_SECONDS"), "60")
    env = daemon_env(tmp_path, url, provider.url, CHECKPOINTD_HTTP_PORT=str(port), **gaps)
    with closed_at_end(*os.pipe()) as (reader, writer):
        async with running_with(fill(writer), env) as process:
            await until_true(sql, f"select count(*) = {len(JOBS)} from checkpointd.checkpoints", seconds=300)
            dropped = 0
            while not dropped:
                dropped = await dropped_lines(port)
            assert 200 == (await get(port, "/livez"))[0]
            written = b""
            while b"log.dropped" not in written:
                written += await asyncio.to_thread(os.read, reader, 65536)
            events = [json.loads(line) for line in written.lstrip(b".").splitlines() if line.endswith(b"}")]
            assert [await dropped_lines(port)] == [e["lines"] for e in events if e["event"] == "log.dropped"]
            await end(process)
