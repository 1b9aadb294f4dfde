"""Daemons as processes that tests kill, stop and read; and a nursery that brings forth many, quickly.

Every daemon has a key of its own, by which the provider tells them apart.
"""

import asyncio
import itertools
import json
import os
import select
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import open_store
from support.verbs import environment, running

INTERVAL = 0.2
LEASE = 2.0

_numbers = itertools.count(1)


def surroundings(home: Path, url: str, api: str, **more: str) -> dict[str, str]:
    """Return the environment of a daemon that polls often, by small pages, with a short lease, and has its own key."""
    settings = {
        "MIN_POLL_SECONDS": INTERVAL, "MAX_POLL_SECONDS": INTERVAL, "LEASE_SECONDS": LEASE, "PAGE_SIZE": 5,
        "REQUEST_TIMEOUT_SECONDS": 1, "JOB_LIST_SECONDS": 1,
    }  # fmt: skip
    chosen = {f"CHECKPOINTD_{name}": str(value) for name, value in settings.items()}
    return environment(home, url, api, **{**chosen, "OPENAI_API_KEY": f"key-of-daemon-{next(_numbers):05d}", **more})


async def until(holds: Callable[[], object], seconds: float) -> None:
    """Wait until something holds that another process brings about, and that gives no event."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching_the_machine() -> AsyncIterator[Callable[[], float]]:
    """Yield what tells how many seconds this machine stood still meanwhile: so much later than due a clock rang."""
    late = 0.0

    async def ring() -> None:
        nonlocal late
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            late += max(time.monotonic() - due - 0.1, 0.0)  # what is less is no standstill

    ringing = asyncio.create_task(ring())
    try:
        yield lambda: late
    finally:
        ringing.cancel()


async def track(url: str, jobs: Sequence[str]) -> None:
    """Track jobs of the one source."""
    async with open_store(lambda: connect(url)) as store:
        keys = await store.register_sources({"openai": "openai"})
        await store.track(keys["openai"], jobs)


class Daemon:
    """A daemon that runs, and what it logs."""

    def __init__(self, process: Process, env: dict[str, str]) -> None:
        self.process = process
        self.key = env["OPENAI_API_KEY"]
        self.log: list[str] = []
        self._grown = asyncio.Event()

    async def read_log(self) -> None:
        """Keep reading, so that the pipe never fills."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(line.decode())
            self._grown.set()

    def logged(self, word: str) -> list[str]:
        """Return the lines with `word`."""
        return [line for line in self.log if word in line]

    async def wait_for(self, word: str, seconds: float = 60, *, after: int = 0) -> None:
        """Wait for a line with `word`, behind the first `after` lines."""
        try:
            async with asyncio.timeout(seconds):
                while not any(word in line for line in self.log[after:]):
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"no {word} within {seconds} s:\n" + "".join(self.log)) from None


@asynccontextmanager
async def daemon(env: dict[str, str]) -> AsyncIterator[Daemon]:
    """Run a daemon, ready to poll; it is killed at the end where it still runs."""
    async with running("run", env=env) as process:
        one = Daemon(process, env)
        reading = asyncio.ensure_future(one.read_log())
        try:
            yield one
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


_NURSERY = """
import ctypes, json, os, signal, sys
import checkpointd.service.daemon
from checkpointd.__main__ import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    parent = os.getpid()
    if child := os.fork():
        print(child, flush=True)
        continue
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(json.loads(line))
    sys.argv = ["checkpointd", "run"]
    main()
"""
"""Has the program imported, and forks at each line, an environment: a kill costs a tenth of what a start does."""


class Nursery:
    """Brings forth daemons that live for moments. Whatever becomes of the test, they end with it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _NURSERY, stdin=PIPE, stdout=PIPE, stderr=log
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.communicate()

    async def start(self, env: dict[str, str]) -> int:
        """Start a daemon; returns its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._one_at_a_time, asyncio.timeout(60):
            self._process.stdin.write(json.dumps(env).encode() + b"\n")
            return int(await self._process.stdout.readline())

    @staticmethod
    async def kill(pid: int) -> None:
        """Kill a daemon with -9, and wait until it is gone."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await until(lambda: select.select([handle], [], [], 0)[0], 60)
            finally:
                os.close(handle)
