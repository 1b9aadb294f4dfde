"""PostgreSQL servers that a test starts, stops and copies as standbys. They listen on TCP."""

import atexit
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from socket import socket

import pytest

from checkpointd.postgres.embedded import binary

NOBODY = 65534
_DEBIAN_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)


def free_port() -> int:
    """Return a free port of loopback.

    It is below the range from which the kernel takes ports for outgoing connections: one of that range could be taken
    by another process before the test uses it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        number = random.SystemRandom().randrange(20_000, 22_000)  # independent of the seed of the tests
        number += 2_000 * (worker % 5)  # another range for each worker
        with closing(socket()) as free, suppress(OSError):
            free.bind(("127.0.0.1", number))
            return number


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs: TEST_POSTGRES_BIN, or that of the embedded PostgreSQL."""
    return Path(os.environ.get("TEST_POSTGRES_BIN") or binary("postgres").parent)


def binaries_with_tls() -> Path:
    """Return the folder of a PostgreSQL with TLS, which the embedded one lacks. Skips the test if there is none."""
    found = os.environ.get("TEST_POSTGRES_BIN") or (_DEBIAN_BINARIES[-1] if _DEBIAN_BINARIES else None)
    if not found:
        pytest.skip("needs a PostgreSQL with TLS: apt-get install postgresql")
    return Path(found)


def program(name: str, package: str) -> str:
    """Return the path of a program. Skips the test if the program is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


def self_signed(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """Create a certificate and its key, which is not encrypted unless other options are given. Returns their paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [program("openssl", "openssl"), "req", "-x509", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *(options or ("-nodes",))]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def revocations(certificate: Path, key: Path, *revoked: Path) -> Path:
    """Create an authority's list of the certificates that it revoked. Returns its path."""
    folder = certificate.with_suffix(".authority")
    folder.mkdir()
    (folder / "index").touch()
    (folder / "config").write_text(f"""[ca]
default_ca = ours
[ours]
database = {folder}/index
default_md = sha256
default_crl_days = 30
""")
    command = [program("openssl", "openssl"), "ca", "-config", folder / "config", "-cert", certificate, "-keyfile", key]
    for options in (*(("-revoke", one) for one in revoked), ("-gencrl", "-out", folder / "list.crl")):
        subprocess.run([*command, *options], check=True, capture_output=True)
    return folder / "list.crl"


def unprivileged() -> list[str]:
    """Return the prefix of a command that makes it end with the tests and, for root, run as the user nobody.

    PostgreSQL refuses to run as root. The user nobody keeps the right to open every folder.
    """
    if shutil.which("setpriv") is None:
        return []
    launcher = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        launcher += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        launcher += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    return launcher


def give_away(*paths: Path) -> None:
    """Make the user of unprivileged() the owner of files and folders."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


@cache
def _initialized(bin_: Path) -> Path:
    """Create the data of a server, which is never started, for as long as this process lives. Returns its folder."""
    folder = Path(tempfile.mkdtemp(prefix="checkpointd-initdb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    give_away(folder)
    command = [*unprivileged(), bin_ / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N"]
    subprocess.run([*command, "-E", "UTF8", "--locale=C.UTF-8"], stdout=subprocess.DEVNULL, cwd=folder, check=True)
    return folder / "data"


def initialize(data: Path, bin_: Path) -> None:
    """Create the data of a server in the folder `data`: a copy takes a tenth of the time of initdb."""
    subprocess.run(["cp", "-a", _initialized(bin_), data], check=True)


class Server:
    """A server with its data and log in `folder`. Created by serving(), or copied by standby()."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self.folder, self._bin, self.port = folder, bin_, free_port()
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        give_away(folder)

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _command(self, name: str, *arguments: str | Path) -> list[str | Path]:
        return [*unprivileged(), self._bin / name, *arguments]

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run a program of PostgreSQL in the folder. Its output is added to the log."""
        with self.log.open("ab") as log:
            subprocess.run(self._command(name, *arguments), stdout=log, stderr=log, cwd=self.folder, check=True)

    def initdb(self, **settings: str) -> None:
        """Create the data, with these settings."""
        initialize(self.folder / "data", self._bin)
        self.configure(fsync="off", unix_socket_directories="", listen_addresses="127.0.0.1", **settings)

    def configure(self, **settings: str) -> None:
        """Add settings, which apply from the next start on."""
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self, address: str = "127.0.0.1") -> None:
        """Start the server, and wait until it answers."""
        with self.log.open("ab") as log:
            command = self._command("postgres", "-D", "data", "-p", str(self.port))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        ready = [self._bin / "pg_isready", "-q", "-h", address, "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)  # a server that starts gives no event

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server by a signal; the default is an immediate shutdown, which is like a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def standby(self, folder: Path) -> "Server":
        """Return a copy that replicates this server. It is not started."""
        copy = Server(folder, self._bin)
        copy.run("pg_basebackup", "-D", "data", "-R", "-X", "stream", "-c", "fast", "-N", "-d", self.url)
        return copy


@contextmanager
def serving(folder: Path, bin_: Path | None = None, **settings: str) -> Iterator[Server]:
    """Run a server with these settings, and stop it at the end."""
    server = Server(folder, bin_ or binaries())
    server.initdb(**settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
