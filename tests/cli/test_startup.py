"""How fast commands start: what they import, and the processor time compared with that of their libraries."""

import re
import resource
import sys
import time
from pathlib import Path

import pytest

from support import verbs
from support.verbs import PROGRAM

TERMINAL = {"rich", "pygments"}
DAEMON = {"aiohttp", "apscheduler", "jinja2", "prometheus_client", "structlog"}


async def _imports(*arguments: str, env: dict[str, str]) -> set[str]:
    """Return the top names of the modules that a command imports."""
    program = (sys.executable, "-X", "importtime", "-m", "checkpointd")
    ended = await verbs.checkpointd(*arguments, env=env, program=program)
    assert 0 == ended.code, ended.err
    return set(re.findall(r"^import time: .*\| +(\w+)", ended.err, re.MULTILINE))


async def _processor_seconds(*command: str, env: dict[str, str]) -> float:
    """Return the least processor time of several runs of a command."""
    least = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = await verbs.checkpointd(*command[1:], env=env, program=command[:1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert 0 == ended.code, ended.err
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


async def test_help_loads_no_library_of_a_command(tmp_path: Path) -> None:
    """--help loads neither the settings library nor the driver, nor anything else that only a command needs."""
    imported = await _imports("--help", env=verbs.environment(tmp_path))
    assert {"typer", "checkpointd"} <= imported
    assert set() == imported & {"pydantic", "pydantic_settings", "asyncio", "asyncpg", "msgspec", *TERMINAL, *DAEMON}


@pytest.mark.parametrize("verb", ["jobs", "status"])
async def test_lists_load_no_library_of_the_daemon(tmp_path: Path, url: str, verb: str) -> None:
    """The lists load no library of the daemon and, unless they are printed on a terminal, none for terminals."""
    imported = await _imports(verb, env=verbs.environment(tmp_path, url))
    assert {"pydantic_settings", "asyncpg"} <= imported
    assert set() == imported & (TERMINAL | DAEMON)


@pytest.mark.slow
@pytest.mark.alone
async def test_lists_take_little_more_than_their_libraries(tmp_path: Path, url: str) -> None:
    """A list takes at most twice the processor time that importing its libraries takes; --help twice that of typer."""
    env = verbs.environment(tmp_path, url)
    typer = await _processor_seconds(sys.executable, "-c", "import typer", env=env)
    assert 2 * typer > await _processor_seconds(*PROGRAM, "--help", env=env)
    libraries = await _processor_seconds(sys.executable, "-c", "import asyncpg, pydantic_settings, typer", env=env)
    assert 2 * libraries > await _processor_seconds(*PROGRAM, "status", env=env)


@pytest.mark.slow
@pytest.mark.alone
async def test_the_daemon_is_ready_soon(tmp_path: Path, url: str) -> None:
    """The daemon is ready after at most three times as long as importing its libraries takes."""
    env = verbs.environment(tmp_path, url, "http://127.0.0.1:9/v1")
    names = ", ".join(["asyncpg", "pydantic_settings", "typer", *DAEMON])
    code = f"import {names}, os; os._exit(0)"
    imports, starts = [], []
    for _ in range(3):
        started = time.perf_counter()
        await verbs.checkpointd("-c", code, env=env, program=(sys.executable,))
        imports.append(time.perf_counter() - started)
        started = time.perf_counter()
        async with verbs.running("run", env=env, program=PROGRAM) as process:
            await verbs.wait_for_line(process, "daemon.ready")
            starts.append(time.perf_counter() - started)
    assert 3 * min(imports) > min(starts)
