"""Runs the program as a person does: a process of its own, an environment of its own."""

import asyncio
import fcntl
import os
import struct
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp

import checkpointd as package

KEY = "canary-key-0123456789"
PROGRAM = (sys.executable, "-m", "checkpointd")
SILENCED = ("sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM)
"""The program with its standard error closed, as a careless script starts it."""


class Ended(NamedTuple):
    """What a process left: its exit code, its standard output and its standard error."""

    code: int
    out: str
    err: str


def environment(home: Path, url: str | None = None, api: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a process: a database and a provider, or none of either."""
    given = {"CHECKPOINTD_DATABASE_URL": url, "OPENAI_BASE_URL": api, "OPENAI_API_KEY": KEY if api else None}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(Path(package.__file__).parents[1]),  # the program that is tested, wherever it stands
        "CHECKPOINTD_CONFIG": str(_no_config(home)),
        "CHECKPOINTD_HTTP_PORT": "0",
        **{name: value for name, value in given.items() if value is not None},
        **more,
    }


def _no_config(home: Path) -> Path:
    """Return an empty settings file, so that one of this machine does not matter."""
    path = home / "empty.toml"
    path.touch()
    return path


async def checkpointd(*arguments: str, env: dict[str, str], stdin: str = "", program: Sequence[str] = PROGRAM) -> Ended:
    """Run a verb to its end."""
    process = await asyncio.create_subprocess_exec(*program, *arguments, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def on_terminal(*arguments: str, env: dict[str, str], columns: int) -> str:
    """Run a verb to its end on a terminal (a pty) so many columns wide; return all that it wrote there."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {"TERM": "xterm-256color", **env}
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, env=env, stdout=its, stderr=its)
    os.close(its)
    try:
        written = await asyncio.wait_for(asyncio.to_thread(_drain, ours), 120)
    finally:
        os.close(ours)
    await process.wait()
    return written


def _drain(terminal: int) -> str:
    """Read what is written to a terminal until nobody has it open."""
    read = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so where others say the end of the file
            part = b""
        if not part:
            return read.decode()
        read += part


@asynccontextmanager
async def running(*arguments: str, env: dict[str, str], program: Sequence[str] = PROGRAM) -> AsyncIterator[Process]:
    """Run a verb that goes on; it is killed at the end where it still runs."""
    process = await asyncio.create_subprocess_exec(*program, *arguments, env=env, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        _, said = await process.communicate()
        sys.stderr.write((said or b"").decode())  # shown where the test fails


async def get(port: int, path: str) -> tuple[int, str]:
    """Ask a server on loopback: the status and the body of its answer."""
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def until_ok(port: int, path: str) -> None:
    """Wait until a server on loopback answers this with 200: it may not listen yet, or say that it is not ready."""
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                if (await get(port, path))[0] == 200:
                    return
            await asyncio.sleep(0.1)


async def wait_for_line(process: Process, word: str) -> str:
    """Read standard error up to the line with `word`."""
    assert process.stderr is not None
    seen = []
    async with asyncio.timeout(60):
        while line := (await process.stderr.readline()).decode():
            seen.append(line)
            if word in line:
                return line
    raise AssertionError(f"{word} never came:\n" + "".join(seen))
