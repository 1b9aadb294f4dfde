"""The units under a real systemd: installed by the documented lines, started, killed, blocked and stopped."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from support.documents import Document
from support.harness import until, until_true
from support.machine import Machine, booted
from support.paths import TOP
from support.provider import JOB, Provider, checkpoint, error, held, page
from support.servers import Server, serving
from support.verbs import KEY, checkpointd, environment

UNITS = sorted((TOP / "systemd").glob("*.service"))
SERVICE = "checkpointd.service"
SERVICE_DOCUMENT = Document("systemd/README.md")
CREDENTIALS = "/etc/checkpointd/credentials"

pytestmark = pytest.mark.timeout(900)  # the first test installs a wheel with pip

# Without a booted systemd


def _systemd_analyze(*arguments: str | Path) -> str:
    """Return the output of systemd-analyze. Skips the test if it is missing or too old."""
    has_program = shutil.which("systemd-analyze") is not None
    version = re.match(r"systemd (\d+)", _output("systemd-analyze", "--version")) if has_program else None
    if version is None or int(version[1]) < 250:
        pytest.skip("no systemd-analyze of version 250 or newer here")
    return _output("systemd-analyze", *arguments)


def _output(*command: str | Path) -> str:
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def _copy(unit: Path, folder: Path) -> Path:
    """Return a copy of a unit whose program exists here."""
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace("/opt/checkpointd/bin/checkpointd", sys.executable))
    return copy


def _exposure(unit: Path) -> float:
    """Return how much a unit is exposed, from 0 to 10."""
    report = _systemd_analyze("security", "--offline=true", "--threshold=12", "--no-pager", unit)
    found = re.search(r"exposure level for \S+ ([\d.]+)", report)
    assert found
    return float(found[1])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_sound(unit: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing about the units."""
    assert "" == _systemd_analyze("verify", "--recursive-errors=no", _copy(unit, tmp_path))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_hardened(unit: Path) -> None:
    """`systemd-analyze security` rates the exposure of the units as 1.1 of 10 at most."""
    assert _exposure(unit) <= 1.1


def test_the_network_can_be_restricted(tmp_path: Path) -> None:
    """The documented addition to the unit is valid, and systemd rates the exposure lower with it."""
    (addition,) = SERVICE_DOCUMENT.blocks("ini", "Restrict the network")
    unit = _copy(TOP / "systemd" / SERVICE, tmp_path)
    before = _exposure(unit)
    with unit.open("a") as file:
        file.write(addition)
    assert "" == _systemd_analyze("verify", "--recursive-errors=no", unit)
    assert _exposure(unit) < before


# With a booted systemd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield the server of the service, with the documented database and logins."""

    async def administer() -> None:
        sql = await asyncpg.connect(running.url)
        for statement in SERVICE_DOCUMENT.blocks("sql", "Install")[0].splitlines():
            await sql.execute(statement)
        await sql.close()

    with serving(tmp_path_factory.mktemp("postgres") / "server") as running:
        asyncio.run(administer())
        yield running


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yield a booted machine. Its folder /wheel has a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("machine")
    with booted(folder / "console") as running:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(build, cwd=TOP, check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        (running.root / "wheel").mkdir()
        shutil.copy(wheel, running.root / "wheel")
        yield running


@pytest.fixture
async def service(machine: Machine, server: Server, provider: Provider) -> AsyncIterator[Machine]:
    """Yield the machine, on which the service is installed by the documented lines and polls the test's provider."""
    drop_in = f"""[Service]
Environment=OPENAI_BASE_URL={provider.url} CHECKPOINTD_HTTP_PORT=0 CHECKPOINTD_LEASE_SECONDS=4
Environment=CHECKPOINTD_MIN_POLL_SECONDS=0.1 CHECKPOINTD_MAX_POLL_SECONDS=0.1
Environment=CHECKPOINTD_DRAIN_SECONDS=20
RestartSec=0.2
WatchdogSec=30
TimeoutStopSec=60
"""
    machine.write(f"/etc/systemd/system/{SERVICE}.d/test.conf", drop_in)
    if not (machine.root / "opt/checkpointd").exists():
        await asyncio.to_thread(_install, machine, server)
    else:
        await _run(machine, "systemctl", "daemon-reload")
        await _run(machine, "systemctl", "restart", SERVICE)
    yield machine
    await _run(machine, "systemctl", "stop", SERVICE)
    await _run(machine, "systemctl", "reset-failed", check=False)
    sql = await asyncpg.connect(_dsn(server, "postgres"))
    await sql.execute("truncate checkpointd.jobs, checkpointd.checkpoints, checkpointd.changes cascade")
    await sql.close()


def _commands_of_root() -> list[str]:
    """Return the documented shell lines that set the credentials, and that run `check` and `track` with them."""
    credentials, check, track = SERVICE_DOCUMENT.blocks("sh", "Operate")[0].splitlines()
    return [credentials, check, track.replace("ftjob-…", JOB)]


def _dsn(server: Server, role: str = "checkpointd") -> str:
    """Return the DSN of the documented database, by default for the role of the daemon."""
    return f"postgresql://{role}@127.0.0.1:{server.port}/finetuning"


def _install(machine: Machine, server: Server) -> None:
    """Run the five documented lines with the DSNs and the key of the tests, and the versions of requirements.lock."""
    (lines,) = SERVICE_DOCUMENT.blocks("sh", "Install")
    assert 5 == len(lines.splitlines())
    script = lines.replace("'sk-…'", f"'{KEY}'")
    script, of_owner = re.subn("'postgresql://owner:[^']*'", f"'{_dsn(server, 'owner')}'", script)
    script, of_daemon = re.subn("'postgresql://checkpointd:[^']*'", f"'{_dsn(server)}'", script)
    assert (1, 1, False) == (of_owner, of_daemon, "…" in script)
    pins = re.findall(r"^[\w.-]+==[\w.]+", (TOP / "requirements.lock").read_text(), flags=re.MULTILINE)
    machine.write("/wheel/pins", "\n".join(pins))
    machine.run("sh", "-ec", "cd /wheel; export PIP_CONSTRAINT=/wheel/pins\n" + script)


async def _run(machine: Machine, *command: str, check: bool = True) -> str:
    return await asyncio.to_thread(machine.run, *command, check=check)


async def _until_property(machine: Machine, name: str, pattern: str, seconds: float = 60) -> None:
    """Wait until a property of the service matches a pattern."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, value := (await asyncio.to_thread(machine.properties, SERVICE, name))[0]):
        assert time.monotonic() < deadline, f"{name}={value!r} does not match {pattern!r}"
        await asyncio.sleep(0.1)  # systemd sends no event


async def _journal(machine: Machine) -> list[dict[str, Any]]:
    """Return the log lines of the service."""
    await _run(machine, "journalctl", "--sync")  # so that no line is left in its sockets
    lines = await _run(machine, "journalctl", "-u", SERVICE, "-o", "json", "--no-pager")
    return [json.loads(line) for line in lines.splitlines()]


async def _track(server: Server, provider: Provider, tmp_path: Path) -> None:
    """Track the job, and wait until the service has polled it."""
    env = environment(tmp_path, _dsn(server), provider.url)
    assert 0 == (await checkpointd("track", JOB, env=env)).code
    requests = provider.asked()
    await until(lambda: provider.asked() > requests)


@pytest.mark.slow
async def test_from_a_wheel_to_a_running_unit(
    service: Machine, server: Server, provider: Provider, tmp_path: Path
) -> None:
    """The documented lines lead to a running service; systemd shows its status, and reports nothing about its units."""
    assert ["active", "running"] == service.properties(SERVICE, "ActiveState", "SubState")
    assert ["exited", "success"] == service.properties("checkpointd-migrate.service", "SubState", "Result")
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    await _until_property(service, "StatusText", "^polling: 1 tracked, [01] due, 0 failing, last poll [01] s ago$")
    for unit in UNITS:
        assert "" == await _run(service, "systemd-analyze", "verify", f"/etc/systemd/system/{unit.name}")
    provider.jobs = page([])
    typed = "\n".join([f"export OPENAI_BASE_URL={provider.url}", *_commands_of_root()])
    *printed, tracked = (await _run(service, "sh", "-ec", typed)).splitlines()
    assert "1 job tracked (0 new)" == tracked
    assert "ok    role: checkpointd has the required rights on all existing objects" in printed
    assert {"ok"} == {line.split()[0] for line in printed}


@pytest.mark.slow
async def test_upgrade(service: Machine) -> None:
    """The documented lines of an upgrade install the wheel and the units, and lead to a running service."""
    started = service.properties(SERVICE, "MainPID")
    (service.root / "etc/systemd/system" / SERVICE).unlink()
    lines = SERVICE_DOCUMENT.blocks("sh", "Upgrade")[0]
    await _run(service, "sh", "-ec", "cd /wheel; export PIP_CONSTRAINT=/wheel/pins\n" + lines)
    assert (service.root / "etc/systemd/system" / SERVICE).exists()
    assert ["active", "running"] == service.properties(SERVICE, "ActiveState", "SubState")
    assert started != service.properties(SERVICE, "MainPID")


@pytest.mark.slow
async def test_ready_when_polling_can_work(service: Machine, server: Server) -> None:
    """While the database is down the service is starting, and its status says why; when it is back, it is active."""
    await _run(service, "systemctl", "stop", SERVICE)
    server.stop()
    drop_in = f"etc/systemd/system/{SERVICE}.d/with_start.conf"
    service.write(drop_in, "[Service]\nTimeoutStartSec=10\n")
    await _run(service, "systemctl", "daemon-reload")
    await _run(service, "systemctl", "start", "--no-block", SERVICE)
    await _until_property(service, "StatusText", "^waiting: database: .*connection refused")
    await asyncio.sleep(11)  # longer than it has by itself
    assert ["activating", "0"] == service.properties(SERVICE, "ActiveState", "NRestarts")
    (service.root / drop_in).unlink()
    server.start()
    await _until_property(service, "ActiveState", "^active$")
    await _until_property(service, "StatusText", "^polling: ")


@pytest.mark.slow
async def test_restarted_after_a_kill(service: Machine, server: Server, provider: Provider, tmp_path: Path) -> None:
    """A service that is killed with -9 starts again, and continues to poll."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    await _run(service, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    await _until_property(service, "NRestarts", "^1$")
    await _until_property(service, "ActiveState", "^active$")
    requests = provider.asked()
    await until(lambda: provider.asked() >= requests + 2)


HANG_ON_SIGUSR2 = """import signal, time

def hang(*_):
    time.sleep(1000)

signal.signal(signal.SIGUSR2, hang)
"""


@pytest.mark.slow
async def test_restarted_when_it_hangs(service: Machine) -> None:
    """If the event loop is blocked, the watchdog restarts the service, and the journal shows where it was blocked."""
    service.write("/wheel/hang/sitecustomize.py", HANG_ON_SIGUSR2)
    drop_in = f"etc/systemd/system/{SERVICE}.d/with_hang.conf"  # read after test.conf
    service.write(drop_in, "[Service]\nWatchdogSec=6\nEnvironment=PYTHONPATH=/wheel/hang\n")
    await _run(service, "systemctl", "daemon-reload")
    await _run(service, "systemctl", "restart", SERVICE)
    await asyncio.sleep(8)  # longer than WatchdogSec: the service is alive only because it feeds the watchdog
    assert ["active", "0"] == service.properties(SERVICE, "ActiveState", "NRestarts")
    await _run(service, "systemctl", "kill", "--kill-whom=main", "--signal=USR2", SERVICE)
    await _until_property(service, "NRestarts", "^1$")
    await _until_property(service, "ActiveState", "^active$")
    (service.root / drop_in).unlink()
    messages = "\n".join(str(line["MESSAGE"]) for line in await _journal(service))
    assert "Watchdog timeout" in messages
    assert re.search(r'File "/wheel/hang/sitecustomize.py", line 4 in hang', messages)


@pytest.mark.slow
async def test_drains_when_it_is_stopped(service: Machine, server: Server, provider: Provider, tmp_path: Path) -> None:
    """A stop lets the running poll end, saves its result, leaves no lease, and takes a few seconds."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(2), checkpoint(1)]))
    await asyncio.wait_for(reached.wait(), 60)
    stop = asyncio.create_task(_run(service, "systemctl", "stop", SERVICE))
    await _until_property(service, "StatusText", "^draining$")
    go_on.set()
    started = time.monotonic()
    await stop
    assert time.monotonic() - started < 8, "it used all the time for running polls: half of CHECKPOINTD_DRAIN_SECONDS"
    assert ["success", "0"] == service.properties(SERVICE, "Result", "ExecMainStatus")
    sql = await asyncpg.connect(_dsn(server))
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where lease_expires_at is not null")
    await sql.close()


@pytest.mark.slow
async def test_only_the_service_can_read_the_key(
    service: Machine, server: Server, provider: Provider, tmp_path: Path
) -> None:
    """The key is used, and only root and the service can read it: no environment, argument or other file has it."""
    await _track(server, provider, tmp_path)
    assert f"Bearer {KEY}" == provider.requests[0].headers["Authorization"]
    pid = service.properties(SERVICE, "MainPID")[0]
    for file in ("environ", "cmdline"):
        assert KEY not in await _run(service, "cat", f"/proc/{pid}/{file}")
    for path in (f"{CREDENTIALS}/OPENAI_API_KEY", f"/run/credentials/{SERVICE}/checkpointd_OPENAI_API_KEY"):
        assert KEY == await _run(service, "cat", path)
        other = await _run(service, "setpriv", "--reuid=65534", "--clear-groups", "cat", path, check=False)
        assert "Permission denied" in other
    assert "0" == await _run(service, "prlimit", "--pid", pid, "--core", "--output=HARD", "--noheadings")


@pytest.mark.slow
async def test_priorities_in_the_journal(service: Machine, server: Server, provider: Provider, tmp_path: Path) -> None:
    """In the journal, the priority of a log line is its level, and its text has no prefix."""
    provider.checkpoints[JOB] = error(500)
    await _track(server, provider, tmp_path)
    expected = {"daemon.ready": "6", "poll.failed": "4"}
    priorities: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while expected.keys() - priorities.keys():
        assert time.monotonic() < deadline, priorities
        for line in await _journal(service):
            if line.get("_COMM") == "checkpointd" and line["MESSAGE"].startswith("{"):
                priorities[json.loads(line["MESSAGE"])["event"]] = line["PRIORITY"]
    assert expected == {event: priorities[event] for event in expected}


@pytest.mark.slow
async def test_not_restarted_with_wrong_settings(service: Machine) -> None:
    """A service with a misspelt setting fails and is not restarted; the journal names the setting."""
    service.write(
        f"/etc/systemd/system/{SERVICE}.d/wrong.conf", "[Service]\nEnvironment=CHECKPOINTD_MIN_POL_SECONDS=1\n"
    )
    await _run(service, "systemctl", "daemon-reload")
    assert "failed" in await _run(service, "systemctl", "restart", SERVICE, check=False)
    (service.root / f"etc/systemd/system/{SERVICE}.d/wrong.conf").unlink()
    assert ["failed", "2", "0"] == service.properties(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts")
    assert any("did you mean CHECKPOINTD_MIN_POLL_SECONDS" in str(line["MESSAGE"]) for line in await _journal(service))


@contextmanager
def _changed_files(machine: Machine) -> Iterator[Path]:
    """Yield the folder of the service's settings. At the end its contents are restored."""
    machine.run("cp", "-a", "/etc/checkpointd", "/etc/checkpointd.kept")
    try:
        yield machine.root / "etc/checkpointd"
    finally:
        machine.run("sh", "-ec", "rm -r /etc/checkpointd && mv /etc/checkpointd.kept /etc/checkpointd")


@pytest.mark.slow
async def test_a_key_of_another_name(service: Machine, server: Server, provider: Provider) -> None:
    """The key of a source may be in a file of any name, which its settings give, without a change of the unit.

    If the settings have the DSN, no file with it is needed. The schema is still upgraded by its owner.
    """
    sql = await asyncpg.connect(_dsn(server, "postgres"))
    await sql.execute("update checkpointd.schema_migrations set checksum = 'older' where name like 'views%'")
    await sql.close()
    with _changed_files(service) as folder:
        shutil.rmtree(folder / "credentials")
        service.write(f"{CREDENTIALS}/azure_key", f"{KEY}\n")
        settings = f"""database_url = "{_dsn(server)}"
[[sources]]
name = "azure"
kind = "azure"
base_url = "{provider.url}"
api_key = "azure_key"
"""
        service.write("/etc/checkpointd/checkpointd.toml", settings)
        await _run(service, "timeout", "60", "systemctl", "restart", "checkpointd-migrate", SERVICE)
        assert ["active", "success"] == service.properties("checkpointd-migrate.service", "ActiveState", "Result")
        await _until_property(service, "ActiveState", "^active$")
        credentials, _, track = _commands_of_root()
        await _run(service, "sh", "-ec", f"{credentials}\n{track}")
        await until(lambda: provider.asked(JOB))
        assert {KEY} == {request.headers.get("api-key") for request in provider.requests}


PRINTS_A_KEY = """#!/usr/bin/python3
import json, os, pathlib
runs = pathlib.Path(os.environ["STATE_DIRECTORY"], "runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
try:
    pathlib.Path("/opt/written").write_text("")
except OSError:  # as the unit demands
    print(json.dumps({"access_token": f"printed-key-{len(runs.read_text())}", "expires_in": 3600}))
"""


@pytest.mark.slow
async def test_a_command_that_prints_a_key(service: Machine, server: Server, provider: Provider) -> None:
    """A command prints the key under the restrictions of the unit, and another one after the provider has refused it.

    It can write to the folder of the service only.
    """
    accepted = "printed-key-1"

    async def answer(request: web.Request) -> web.Response:
        is_accepted = request.headers["Authorization"] == f"Bearer {accepted}"
        return page([checkpoint(1)]) if is_accepted else error(401, "invalid_api_key")

    provider.checkpoints[JOB] = answer
    sql = await asyncpg.connect(_dsn(server))
    with _changed_files(service) as folder:
        (folder / "credentials/OPENAI_API_KEY").unlink()
        service.write("/opt/print-key", PRINTS_A_KEY)
        (service.root / "opt/print-key").chmod(0o755)
        settings = f"""[[sources]]
name = "gateway"
kind = "compatible"
base_url = "{provider.url}"
api_key_command = ["/opt/print-key"]
"""
        service.write("/etc/checkpointd/checkpointd.toml", settings)
        await _run(service, "systemctl", "restart", SERVICE)
        credentials, _, track = _commands_of_root()
        await _run(service, "sh", "-ec", f"{credentials}\n{track}")
        await until_true(sql, "select count(*) = 1 from fine_tuning.checkpoints")
        accepted = "printed-key-2"
        await until(lambda: provider.requests[-1].headers["Authorization"] == "Bearer printed-key-2")
        await until_true(sql, "select bool_and(state = 'ok') from fine_tuning.sources where source = 'gateway'")
    await sql.close()


@pytest.mark.slow
async def test_not_restarted_without_a_database_or_a_key(service: Machine) -> None:
    """A service without a DSN, or without a credential, fails and is not restarted; one line names what is missing."""
    for removed, message in (
        (f"{CREDENTIALS}/database_url", "CHECKPOINTD_DATABASE_URL: required for a service: put the URL into"),
        (CREDENTIALS, "the key of source openai: OPENAI_API_KEY is missing or empty"),
    ):
        await _run(service, "systemctl", "stop", SERVICE)
        logged = len(await _journal(service))
        with _changed_files(service):
            await _run(service, "rm", "-r", removed)
            assert "failed" in await _run(service, "systemctl", "start", SERVICE, check=False)
        assert ["failed", "2", "0"] == service.properties(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts")
        new = (await _journal(service))[logged:]
        lines = [line for line in new if line["SYSLOG_IDENTIFIER"] == "checkpointd"]
        assert ["3"] == [line["PRIORITY"] for line in lines]
        assert lines[0]["MESSAGE"].startswith(f"checkpointd: {message}")
