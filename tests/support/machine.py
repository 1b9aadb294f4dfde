"""A machine of the tests' own, with a real systemd as its first process. See systemd/boot.sh."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BOOT = Path(__file__).with_name("boot_systemd.sh")
PYTHON = "/usr/bin/python3"
PASSED_ON = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Variables with which this machine's pip finds its packages."""


class Machine:
    """A booted machine: run programs on it, and see its files from here."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """Run a program as its root; returns what it said."""
        passed = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **passed}
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-a", *command], input=stdin, env=env, check=False, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write one of its files."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def properties(self, unit: str, *names: str) -> list[str]:
        """Return what systemd knows of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return [found[name] for name in names]


def _why_not() -> str | None:
    """Say why a machine cannot be booted here; None: it can."""
    if not sys.platform.startswith("linux"):
        return "systemd runs on Linux alone"
    if os.geteuid() != 0:
        return "to boot a systemd takes root"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn here: apt-get install systemd-container"
    modern = [PYTHON, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"]
    if not Path(PYTHON).exists() or subprocess.run(modern, check=False, stderr=subprocess.DEVNULL).returncode:
        return f"no {PYTHON} of 3.11 or newer with venv here: apt-get install python3-venv"
    return None


@contextmanager
def booted(log: Path) -> Iterator[Machine]:
    """Boot a machine; at the end it is powered off. Where that cannot be, the test is skipped."""
    if reason := _why_not():
        pytest.skip(reason)
    with log.open("wb") as console:
        process = subprocess.Popen(
            [BOOT, f"checkpointd-test-{os.getpid()}"], stdin=subprocess.DEVNULL, stdout=console, stderr=console
        )
    try:
        machine = _wait_for(process, log)
        yield machine
        machine.run("systemctl", "poweroff", check=False)
        process.wait(120)
    finally:
        for pid in _descendants(process.pid):
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        process.wait(30)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> Machine:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.skip(f"a systemd cannot be booted here: {log.read_text(errors='replace').strip()[-300:]}")
        for pid in _descendants(process.pid):
            if _comm(pid) == "systemd":
                machine = Machine(pid)
                if machine.run("systemctl", "is-system-running", check=False) in {"running", "degraded"}:
                    return machine
        time.sleep(0.1)
    pytest.fail(f"systemd did not come up: {log.read_text(errors='replace')}")


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descendants(ancestor: int) -> list[int]:
    """Return the processes that a process started, and those that they started; the last ones first."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[:0:-1]
