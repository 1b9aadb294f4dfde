"""Shared fixtures: a real PostgreSQL, a migrated database for each test, and a provider with scripted answers."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import hypothesis
import pytest
import structlog

from checkpointd.postgres import migrations
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from support.examples import tries
from support.provider import Provider
from support.servers import binaries as server_binaries
from support.servers import free_port, initialize

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 6 << 30  # slow tests store a million checkpoints


def pytest_configure() -> None:
    """Prepare what the programs inherit that tests start.

    SIGINT interrupts them: shells make background jobs and their children ignore it. Temporary files, above all those
    of the PostgreSQL servers, are in memory where it is large enough: a database is 300 files, which take ten times as
    long on a disk. TMPDIR overrides this.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "TMPDIR" not in os.environ and _is_usable(_MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)
    hypothesis.settings.register_profile("checkpointd", max_examples=tries(100))
    hypothesis.settings.load_profile("checkpointd")


def _is_usable(folder: Path) -> bool:
    """Return whether a folder exists, may be written to, allows programs, and has enough space."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    mounted = os.statvfs(folder)
    return not mounted.f_flag & os.ST_NOEXEC and mounted.f_bavail * mounted.f_frsize >= _MEMORY_BYTES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update, which writes the recorded contract instead of comparing with it."""
    parser.addoption("--update", action="store_true", help="update tests/data and sql/README.md (make catalogue)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but the first cases of a test as slow, if it has the marker fast_cases."""
    seen = Counter[str]()
    for item in items:
        if marker := item.get_closest_marker("fast_cases"):
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > marker.args[0]:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def logging_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test changes in the logging of this process, for example by running a command in it."""
    loggers = [logging.getLogger(name) for name in (None, "apscheduler", "asyncio", "aiohttp")]
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    yield
    structlog.reset_defaults()
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def update(pytestconfig: pytest.Config) -> bool:
    """Return whether to write the recorded contract instead of comparing with it."""
    return bool(pytestconfig.getoption("--update"))


@pytest.fixture(scope="session")
def binaries() -> Path:
    """Return the folder with the programs of the PostgreSQL that the tests run on."""
    return server_binaries()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URL, with {} for the database, of a server: the embedded one or that of TEST_POSTGRES_BIN."""
    folder = Path(tempfile.mkdtemp(prefix="checkpointd-test-"))
    with asyncio.Runner() as runner:
        if binaries := os.environ.get("TEST_POSTGRES_BIN"):
            yield from _server(Path(binaries), folder)
        else:
            server = EmbeddedPostgres(folder / "postgres", sync=False)
            runner.run(server.start_or_connect())
            yield server.url.replace("/checkpointd?", "/{}?")
            runner.run(server.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def bare() -> AsyncIterator[str]:
    """Yield the URL, with {} for the database, of a server for one test, without the roles of checkpointd."""
    folder = Path(tempfile.mkdtemp(prefix="checkpointd-test-"))
    if binaries := os.environ.get("TEST_POSTGRES_BIN"):
        for url in _server(Path(binaries), folder):
            yield url
    else:
        (folder / "postgres").mkdir(mode=0o700)
        initialize(folder / "postgres" / "data", server_binaries())
        async with EmbeddedPostgres(folder / "postgres", sync=False) as server:
            yield server.url.replace("/checkpointd?", "/{}?")
    shutil.rmtree(folder, ignore_errors=True)


def _server(binaries: Path, folder: Path) -> Iterator[str]:
    """Run a server with these programs. PostgreSQL does not run as root: root runs it as nobody."""
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []
    if user:
        os.chown(folder, 65534, 65534)
    data = folder / "data"

    def run(program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [*user, binaries / program, "-D", data, *arguments], stdout=subprocess.DEVNULL, cwd=folder, check=True
        )

    run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    port = free_port()
    options = f"-h 127.0.0.1 -p {port} -c fsync=off -c unix_socket_directories="
    run("pg_ctl", "-l", folder / "log", "-o", options, "-w", "start")
    yield f"postgresql://postgres@127.0.0.1:{port}/{{}}"
    run("pg_ctl", "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="session")
def migrated(postgres: str) -> str:
    """Return the name of a migrated database, of which the databases of the tests are copies."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres.format("postgres"))
        await admin.execute("create database migrated")
        await admin.close()
        connection = await connect(postgres.format("migrated"))
        await migrations.migrate(connection)
        await connection.close()

    asyncio.run(make())
    return "migrated"


@pytest.fixture
def health() -> Health:
    """Return the health of a process without problems."""
    return Health()


_databases = iter(range(1_000_000))


@pytest.fixture
async def empty_url(postgres: str) -> AsyncIterator[str]:
    """Yield the URL of an empty database."""
    async for url in _database(postgres, "template1"):
        yield url


@pytest.fixture
async def url(postgres: str, migrated: str) -> AsyncIterator[str]:
    """Yield the URL of a migrated database for one test."""
    async for url in _database(postgres, migrated):
        yield url


async def _database(postgres: str, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_databases)}"
    admin = await asyncpg.connect(postgres.format("postgres"))
    await admin.execute(f"create database {name} template {template} strategy file_copy")
    yield postgres.format(name)
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """Yield a store over a migrated database."""
    async with open_store(lambda: connect(url)) as opened:
        yield opened


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a plain connection to the test's database."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
def port() -> int:
    """Return the number of a free port of loopback."""
    return free_port()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """Yield a provider whose answers the test sets."""
    async with Provider() as running:
        yield running
