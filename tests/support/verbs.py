"""Run commands as processes, each with an environment of its own."""

import asyncio
import fcntl
import os
import struct
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp

import checkpointd as package
from support.fork_server import forked_program

KEY = "canary-key-0123456789"
PROGRAM = (sys.executable, "-m", "checkpointd")
"""The program as a new Python. Unless it is given, the functions here fork a process that has imported the program."""
PACKAGE = str(Path(package.__file__).parents[1])
"""The folder of the imported package, which may be a copy."""
EARLY_VARIABLES = {"LD_PRELOAD", "SSL_CERT_FILE"}
"""Variables that are read when Python starts, or when it imports the program."""
SILENCED = ("sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM)
"""The program with its standard error closed, as a script can start it."""


class Ended(NamedTuple):
    """The exit code, the standard output and the standard error of a process that has ended."""

    code: int
    out: str
    err: str


def environment(home: Path, url: str | None = None, api: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a process, with the URLs of a database and of a provider if they are given."""
    given = {"CHECKPOINTD_DATABASE_URL": url, "OPENAI_BASE_URL": api, "OPENAI_API_KEY": KEY if api else None}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": PACKAGE,
        "CHECKPOINTD_CONFIG": str(_no_config(home)),
        "CHECKPOINTD_HTTP_PORT": "0",
        **{name: value for name, value in given.items() if value is not None},
        **more,
    }


def _program(env: Mapping[str, str]) -> Sequence[str]:
    """Return the command that runs the program with this environment: a new Python only if it makes a difference."""
    is_usual = env.get("PYTHONPATH") == PACKAGE and not EARLY_VARIABLES & env.keys()
    return forked_program() if is_usual else PROGRAM


def _no_config(home: Path) -> Path:
    """Return an empty settings file, which replaces the one of this machine."""
    path = home / "empty.toml"
    path.touch()
    return path


async def checkpointd(
    *arguments: str, env: dict[str, str], stdin: str = "", program: Sequence[str] | None = None
) -> Ended:
    """Run a command to its end."""
    program = program or _program(env)
    process = await asyncio.create_subprocess_exec(*program, *arguments, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def on_terminal(*arguments: str, env: dict[str, str], columns: int) -> str:
    """Run a command to its end on a terminal (a pty) of this width. Return everything that it wrote there."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {"TERM": "xterm-256color", **env}
    program = (*_program(env), *arguments)
    process = await asyncio.create_subprocess_exec(*program, env=env, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        written = await asyncio.wait_for(asyncio.to_thread(_read_all, master), 120)
    finally:
        os.close(master)
    await process.wait()
    return written


def _read_all(master: int) -> str:
    """Read from the master of a pty until no process has its terminal open."""
    read = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux raises EIO where other systems return the end of the file
            part = b""
        if not part:
            return read.decode()
        read += part


@asynccontextmanager
async def running(*arguments: str, env: dict[str, str], program: Sequence[str] | None = None) -> AsyncIterator[Process]:
    """Run a command in the background. It is killed at the end if it is still running."""
    program = (*(program or _program(env)), *arguments)
    process = await asyncio.create_subprocess_exec(*program, env=env, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        _, err = await process.communicate()
        sys.stderr.write((err or b"").decode())  # pytest shows it if the test fails


async def get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the body of an answer of a server on loopback."""
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def until_ok(port: int, path: str) -> None:
    """Wait until a server on loopback answers with 200. Before that it may not listen yet, or not be ready."""
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                if (await get(port, path))[0] == 200:
                    return
            await asyncio.sleep(0.1)  # another process starts listening without notice


async def wait_for_line(process: Process, word: str) -> str:
    """Read standard error up to the line with `word`, and return this line."""
    assert process.stderr is not None
    return await _read_until(process.stderr, word)


async def wait_for_output(process: Process, word: str) -> str:
    """Read standard output up to the line with `word`, and return this line."""
    assert process.stdout is not None
    return await _read_until(process.stdout, word)


async def _read_until(stream: asyncio.StreamReader, word: str) -> str:
    lines = []
    async with asyncio.timeout(60):
        while line := (await stream.readline()).decode():
            lines.append(line)
            if word in line:
                return line
    raise AssertionError(f"the process ended without a line with {word}:\n" + "".join(lines))
