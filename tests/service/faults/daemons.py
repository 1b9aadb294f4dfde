"""Daemons as processes that tests kill, suspend and read.

Each daemon has a key of its own, by which the provider tells the daemons apart.
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
from support.harness import until
from support.verbs import PROGRAM, environment, running

POLL_GAP = 0.2
LEASE = 2.0
"""The poll gap and the lease of the daemons, in seconds."""

FEW_AT_ONCE = {"CHECKPOINTD_CONCURRENCY": "4"}
"""With this setting a listing takes less than a lease, even on a busy machine: fewer listings share the time."""

PATIENT = {
    "CHECKPOINTD_PAGE_SIZE": "100",
    "CHECKPOINTD_LEASE_SECONDS": "60",
    "CHECKPOINTD_REQUEST_TIMEOUT_SECONDS": "30",
}
"""With these settings no poll fails by itself, even on a slow machine."""

_numbers = itertools.count(1)


def daemon_env(home: Path, url: str, api: str, **more: str) -> dict[str, str]:
    """Return the environment of a daemon that polls often, in small pages, with a short lease and a key of its own."""
    settings = {
        "MIN_POLL_SECONDS": POLL_GAP,
        "MAX_POLL_SECONDS": POLL_GAP,
        "LEASE_SECONDS": LEASE,
        "PAGE_SIZE": 5,
        "REQUEST_TIMEOUT_SECONDS": 1,
        "JOB_LIST_SECONDS": 1,
    }
    variables = {f"CHECKPOINTD_{name}": str(value) for name, value in settings.items()}
    return environment(home, url, api, **{**variables, "OPENAI_API_KEY": f"key-of-daemon-{next(_numbers):05d}", **more})


@asynccontextmanager
async def measure_stalls() -> AsyncIterator[Callable[[], float]]:
    """Yield a function that returns for how many seconds the machine has stood still during the block.

    A timer measures it: the time by which it fires late. Limits in tests are extended by it.
    """
    stalled = 0.0

    async def measure() -> None:
        nonlocal stalled
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)  # the timer
            stalled += max(time.monotonic() - due - 0.1, 0.0)  # a delay of up to 0.1 s is normal

    measuring = asyncio.create_task(measure())
    try:
        yield lambda: stalled
    finally:
        measuring.cancel()


def queued_seconds(pid: int) -> float:
    """Return for how many seconds in all a process was ready to run and had no processor; 0 if that is unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def track(url: str, jobs: Sequence[str]) -> None:
    """Track jobs of the source `openai`."""
    async with open_store(lambda: connect(url)) as store:
        keys = await store.register_sources({"openai": "openai"})
        await store.track(keys["openai"], jobs)


class Daemon:
    """A running daemon and its log."""

    def __init__(self, process: Process, env: dict[str, str]) -> None:
        self.process = process
        self.key = env["OPENAI_API_KEY"]
        self.log: list[str] = []
        self._has_logged = asyncio.Event()

    async def read_log(self) -> None:
        """Read the log until the process ends, so that its pipe never fills."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(line.decode())
            self._has_logged.set()

    def logged(self, word: str) -> list[str]:
        """Return the lines that contain a word."""
        return [line for line in self.log if word in line]

    async def wait_for(self, word: str, seconds: float = 60, *, after: int = 0) -> None:
        """Wait for a line that contains a word, after the first `after` lines."""
        try:
            async with asyncio.timeout(seconds):
                while not any(word in line for line in self.log[after:]):
                    self._has_logged.clear()
                    await self._has_logged.wait()
        except TimeoutError:
            raise AssertionError(f"no {word} within {seconds} s:\n" + "".join(self.log)) from None


@asynccontextmanager
async def daemon(env: dict[str, str]) -> AsyncIterator[Daemon]:
    """Run a daemon. If it still runs at the end, it is killed."""
    async with running("run", env=env, program=PROGRAM) as process:
        started = Daemon(process, env)
        reading = asyncio.ensure_future(started.read_log())
        try:
            yield started
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading
            sys.stderr.writelines(started.log[-100:])  # pytest shows it if the test fails


_FORK_SERVER = """
import ctypes, json, os, signal, sys
import checkpointd.service.daemon
from checkpointd.__main__ import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    parent = os.getpid()
    if child := os.fork():
        print(child, flush=True)
        continue
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(json.loads(line))
    sys.argv = ["checkpointd", "run"]
    main()
"""


class ForkServer:
    """Starts daemons by forking a process that has already imported the program: ten times as fast as a new process.

    For each line of its standard input, an environment, the process forks a daemon and prints its process id. The
    daemons end with the process.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _FORK_SERVER, stdin=PIPE, stdout=PIPE, stderr=log
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.communicate()

    async def start(self, env: dict[str, str]) -> int:
        """Start a daemon. Returns its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock, asyncio.timeout(60):
            self._process.stdin.write(json.dumps(env).encode() + b"\n")
            return int(await self._process.stdout.readline())

    @staticmethod
    async def kill(pid: int) -> None:
        """Kill a daemon with -9, and wait until it has ended."""
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                await until(lambda: select.select([handle], [], [], 0)[0])
            finally:
                os.close(handle)
