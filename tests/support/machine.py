"""A machine for tests: a container with a real systemd as its first process. boot_systemd.sh starts it."""

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
"""The variables with which pip finds packages from here, by their prefixes."""


class Machine:
    """A booted machine. Its programs are run, and its files are read and written, from here."""

    def __init__(self, pid: int) -> None:
        """`pid` is the process id of its systemd."""
        self._pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """Run a program as root of the machine. Returns what it printed."""
        passed_on = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **passed_on}
        ended = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-a", *command],
            input=stdin,
            env=env,
            check=False,
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}"
        return ended.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def properties(self, unit: str, *names: str) -> list[str]:
        """Return properties of a unit, as systemctl shows them."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return [values[name] for name in names]


def _missing() -> str | None:
    """Return what is missing to boot a machine here, or None."""
    if not sys.platform.startswith("linux"):
        return "systemd runs only on Linux"
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn here: apt-get install systemd-container"
    has_venv = [PYTHON, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"]
    if not Path(PYTHON).exists() or subprocess.run(has_venv, check=False, stderr=subprocess.DEVNULL).returncode:
        return f"no {PYTHON} of version 3.11 or newer with venv here: apt-get install python3-venv"
    return None


@contextmanager
def booted(log: Path) -> Iterator[Machine]:
    """Boot a machine, and power it off at the end. If it cannot be booted here, the test is skipped."""
    if missing := _missing():
        pytest.skip(missing)
    with log.open("wb") as console:
        process = subprocess.Popen(
            [BOOT, f"checkpointd-test-{os.getpid()}"], stdin=subprocess.DEVNULL, stdout=console, stderr=console
        )
    try:
        machine = _wait_until_running(process, log)
        yield machine
        machine.run("systemctl", "poweroff", check=False)
        process.wait(120)
    finally:
        for pid in _descendants(process.pid):
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        process.wait(30)


def _wait_until_running(process: subprocess.Popen[bytes], log: Path) -> Machine:
    """Wait until the systemd among the descendants of a process has started its units."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.skip(f"a systemd cannot be booted here: {log.read_text(errors='replace').strip()[-300:]}")
        for pid in _descendants(process.pid):
            if _program(pid) == "systemd":
                machine = Machine(pid)
                if machine.run("systemctl", "is-system-running", check=False) in {"running", "degraded"}:
                    return machine
        time.sleep(0.1)  # other processes boot, and send no event
    pytest.fail(f"systemd did not start its units: {log.read_text(errors='replace')}")


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descendants(ancestor: int) -> list[int]:
    """Return the processes that a process has started, directly or not. A process comes before its parent."""
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
