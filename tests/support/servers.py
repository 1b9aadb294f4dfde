"""PostgreSQL servers of a test's own, over TCP: stopped, copied as standbys and promoted as it pleases."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socket import socket

import pytest

from checkpointd.postgres.embedded import binary

NOBODY = 65534
DEBIANS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)


def free_port() -> int:
    """Return a port of loopback on which nobody listens, and which the kernel gives to nobody by itself.

    From those that it gives to outgoing connections another process, of which there are many, might have it next.
    """
    while True:
        number = random.SystemRandom().randrange(20_000, 22_000)  # not one that a seed repeats
        number += 2_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 5)  # nor another worker's
        with closing(socket()) as free, suppress(OSError):
            free.bind(("127.0.0.1", number))
            return number


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs: that of TEST_POSTGRES_BIN, else the embedded one's."""
    return Path(os.environ.get("TEST_POSTGRES_BIN") or binary("postgres").parent)


def binaries_with_tls() -> Path:
    """Return those of a PostgreSQL with TLS, which the embedded one has not; without one the test is skipped."""
    found = os.environ.get("TEST_POSTGRES_BIN") or (DEBIANS[-1] if DEBIANS else None)
    if not found:
        pytest.skip("no PostgreSQL with TLS here: install Debian's postgresql")
    return Path(found)


def program(name: str, package: str) -> str:
    """Return the path of a program; without it the test is skipped."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"no {name} here: apt-get install {package}")
    return found


def self_signed(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """Make a certificate and its key, unencrypted unless the options say otherwise; returns their paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-subj", "/CN=localhost", "-keyout", key, "-out", certificate, *(options or ("-nodes",))]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def revocations(certificate: Path, key: Path, *revoked: Path) -> Path:
    """Make an authority's list of the certificates that it revoked; returns its path."""
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
    """Return what makes a program, where we are root, run as nobody, who reaches every folder, and end with us."""
    if shutil.which("setpriv") is None:
        return []
    launcher = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        launcher += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        launcher += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    return launcher


def give_away(*paths: Path) -> None:
    """Let files and folders belong to whoever unprivileged() makes of us."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


class Server:
    """A server with its data and log under `folder`. Made by serving() or copied by standby()."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self.folder, self._bin, self.port = folder, bin_, free_port()
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        give_away(folder)

    @property
    def url(self) -> str:
        """The address of its database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _command(self, name: str, *arguments: str | Path) -> list[str | Path]:
        return [*unprivileged(), self._bin / name, *arguments]

    def _run(self, name: str, *arguments: str | Path) -> None:
        with self.log.open("ab") as log:
            subprocess.run(self._command(name, *arguments), stdout=log, stderr=log, cwd=self.folder, check=True)

    def initdb(self, **settings: str) -> None:
        """Make its data, and settle what it does not forget."""
        self._run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        self.configure(fsync="off", unix_socket_directories="", listen_addresses="127.0.0.1", **settings)

    def configure(self, **settings: str) -> None:
        """Add settings, which hold from its next start."""
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            command = self._command("postgres", "-D", "data", "-p", str(self.port))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it, at once (as a crash would) unless told otherwise."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def standby(self, folder: Path) -> "Server":
        """Return a copy that streams what this server commits; it is not started yet."""
        copy = Server(folder, self._bin)
        copy._run("pg_basebackup", "-D", "data", "-R", "-X", "stream", "-c", "fast", "-N", "-d", self.url)
        return copy


@contextmanager
def serving(folder: Path, bin_: Path | None = None, **settings: str) -> Iterator[Server]:
    """Run a server with these settings."""
    server = Server(folder, bin_ or binaries())
    server.initdb(**settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
