"""The units under a real systemd: installed by the documented lines, started, killed, hung, stopped and read."""

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

from support.documents import Document
from support.machine import Machine, booted
from support.paths import TOP
from support.provider import JOB, Provider, checkpoint, error, held, page
from support.servers import Server, serving
from support.verbs import KEY, checkpointd, environment

UNITS = sorted((TOP / "systemd").glob("*.service"))
SERVICE = "checkpointd.service"
SERVICE_DOCUMENT = Document("systemd/README.md")
CREDENTIALS = "/etc/checkpointd/credentials"

pytestmark = pytest.mark.timeout(900)  # the first one installs a wheel with pip

# Without a booted one


def _systemd_analyze(*arguments: str | Path) -> str:
    version = (
        re.match(r"systemd (\d+)", _said("systemd-analyze", "--version")) if shutil.which("systemd-analyze") else None
    )
    if version is None or int(version[1]) < 250:
        pytest.skip("no systemd-analyze of version 250 or newer here")
    return _said("systemd-analyze", *arguments)


def _said(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_sound(unit: Path, tmp_path: Path) -> None:
    """Its verifier finds nothing to say of the units."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/checkpointd/bin/checkpointd", sys.executable))
    assert "" == _systemd_analyze("verify", "--recursive-errors=no", copy)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_hardened(unit: Path) -> None:
    """They are judged as exposed by at most 1.2 of 10."""
    judged = _systemd_analyze("security", "--offline=true", "--threshold=12", "--no-pager", unit)
    exposure = re.search(r"exposure level for \S+ ([\d.]+)", judged)
    assert exposure
    assert float(exposure[1]) <= 1.2


# With one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield the server that the service uses, with the documented database and logins: the owner is plain."""

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
    """Yield a booted machine with a wheel of this checkout in its folder /wheel."""
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
    """Yield the machine with the service installed by the documented lines and running, asking this test's provider."""
    machine.write(f"/etc/systemd/system/{SERVICE}.d/test.conf", f"""[Service]
Environment=OPENAI_BASE_URL={provider.url} CHECKPOINTD_HTTP_PORT=0 CHECKPOINTD_LEASE_SECONDS=4
Environment=CHECKPOINTD_MIN_POLL_SECONDS=0.1 CHECKPOINTD_MAX_POLL_SECONDS=0.1
Environment=CHECKPOINTD_DRAIN_SECONDS=20
RestartSec=0.2
WatchdogSec=30
TimeoutStopSec=60
""")  # fmt: skip
    if not (machine.root / "opt/checkpointd").exists():
        await asyncio.to_thread(_install, machine, server)
    else:
        await _run(machine, "systemctl", "daemon-reload")
        await _run(machine, "systemctl", "restart", SERVICE)
    yield machine
    await _run(machine, "systemctl", "stop", SERVICE)
    await _run(machine, "systemctl", "reset-failed", check=False)
    sql = await asyncpg.connect(_address(server, "postgres"))
    await sql.execute("truncate checkpointd.jobs, checkpointd.checkpoints, checkpointd.changes cascade")
    await sql.close()


def _address(server: Server, role: str = "checkpointd") -> str:
    """Return the address of the documented database for a role, the daemon's unless told otherwise."""
    return f"postgresql://{role}@127.0.0.1:{server.port}/finetuning"


def _install(machine: Machine, server: Server) -> None:
    """Run the five documented lines, with this test's addresses and key, and the versions of the lock."""
    (lines,) = SERVICE_DOCUMENT.blocks("sh", "Install")
    assert 5 == len(lines.splitlines())
    script = lines.replace("'sk-…'", f"'{KEY}'")
    script, owners = re.subn("'postgresql://owner:[^']*'", f"'{_address(server, 'owner')}'", script)
    script, own = re.subn("'postgresql://checkpointd:[^']*'", f"'{_address(server)}'", script)
    assert (1, 1, False) == (owners, own, "…" in script)
    pins = re.findall(r"^[\w.-]+==[\w.]+", (TOP / "requirements.lock").read_text(), flags=re.MULTILINE)
    machine.write("/wheel/pins", "\n".join(pins))
    machine.run("sh", "-ec", "cd /wheel; export PIP_CONSTRAINT=/wheel/pins\n" + script)


async def _run(machine: Machine, *command: str, check: bool = True) -> str:
    return await asyncio.to_thread(machine.run, *command, check=check)


async def _until(machine: Machine, name: str, wanted: str, seconds: float = 60) -> None:
    """Wait until a property of the service matches."""
    deadline = time.monotonic() + seconds
    while not re.search(wanted, found := (await asyncio.to_thread(machine.properties, SERVICE, name))[0]):
        assert time.monotonic() < deadline, f"{name}={found!r} instead of {wanted!r}"
        await asyncio.sleep(0.1)


async def _journal(machine: Machine) -> list[dict[str, Any]]:
    """Return what the service logged since it was last started by hand."""
    await _run(machine, "journalctl", "--sync")  # what it was given and has not read yet
    lines = await _run(machine, "journalctl", "-u", SERVICE, "-o", "json", "--no-pager")
    return [json.loads(line) for line in lines.splitlines()]


async def _track(server: Server, provider: Provider, tmp_path: Path) -> None:
    """Track the job, and wait until the service has polled it."""
    env = environment(tmp_path, _address(server), provider.url)
    assert 0 == (await checkpointd("track", JOB, env=env)).code
    asked = provider.asked()
    async with asyncio.timeout(60):
        while provider.asked() == asked:  # noqa: ASYNC110  # another process asks
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_from_a_wheel_to_a_running_unit(
    service: Machine, server: Server, provider: Provider, tmp_path: Path
) -> None:
    """The documented lines lead to a running service; systemd says how it fares, and finds nothing to say of it."""
    assert ["active", "running"] == service.properties(SERVICE, "ActiveState", "SubState")
    assert ["exited", "success"] == service.properties("checkpointd-migrate.service", "SubState", "Result")
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    await _until(service, "StatusText", "^polling: 1 tracked, [01] due, 0 failing, last poll [01] s ago$")
    for unit in UNITS:
        assert "" == await _run(service, "systemd-analyze", "verify", f"/etc/systemd/system/{unit.name}")
    provider.jobs = page([])
    typed = f"export OPENAI_BASE_URL={provider.url}\n{SERVICE_DOCUMENT.blocks('sh', 'Operate')[0]}"
    printed = (await _run(service, "sh", "-ec", typed)).splitlines()
    assert "ok    role: checkpointd has the required rights on all existing objects" in printed
    assert {"ok"} == {line.split()[0] for line in printed}


@pytest.mark.slow
async def test_ready_when_polling_can_work(service: Machine, server: Server) -> None:
    """With the database down the service is starting, for however long, and says why; when it is back, it is ready."""
    await _run(service, "systemctl", "stop", SERVICE)
    server.stop()
    drop_in = f"etc/systemd/system/{SERVICE}.d/with_start.conf"
    service.write(drop_in, "[Service]\nTimeoutStartSec=10\n")
    await _run(service, "systemctl", "daemon-reload")
    await _run(service, "systemctl", "start", "--no-block", SERVICE)
    await _until(service, "StatusText", "^waiting: database: .*nothing listens there")
    await asyncio.sleep(11)  # longer than it has by itself
    assert ["activating", "0"] == service.properties(SERVICE, "ActiveState", "NRestarts")
    (service.root / drop_in).unlink()
    server.start()
    await _until(service, "ActiveState", "^active$")
    await _until(service, "StatusText", "^polling: ")


@pytest.mark.slow
async def test_restarted_after_a_kill(service: Machine, server: Server, provider: Provider, tmp_path: Path) -> None:
    """Killed with -9 the service starts again, and polls on."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    await _run(service, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    await _until(service, "NRestarts", "^1$")
    await _until(service, "ActiveState", "^active$")
    asked = provider.asked()
    async with asyncio.timeout(60):
        while provider.asked() < asked + 2:  # noqa: ASYNC110  # another process asks
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_restarted_when_it_hangs(service: Machine) -> None:
    """A blocked loop is noticed by the watchdog: the journal tells where it hung, and the service starts again."""
    hang = "import signal, time\n\ndef hang(*_):\n    time.sleep(1000)\n\nsignal.signal(signal.SIGUSR2, hang)\n"
    service.write("/wheel/hang/sitecustomize.py", hang)
    drop_in = f"etc/systemd/system/{SERVICE}.d/with_hang.conf"  # read after test.conf
    service.write(drop_in, "[Service]\nWatchdogSec=6\nEnvironment=PYTHONPATH=/wheel/hang\n")
    await _run(service, "systemctl", "daemon-reload")
    await _run(service, "systemctl", "restart", SERVICE)
    await asyncio.sleep(8)  # longer than the watchdog's patience: that it is fed is what keeps the service alive
    assert ["active", "0"] == service.properties(SERVICE, "ActiveState", "NRestarts")
    await _run(service, "systemctl", "kill", "--kill-whom=main", "--signal=USR2", SERVICE)
    await _until(service, "NRestarts", "^1$")
    await _until(service, "ActiveState", "^active$")
    (service.root / drop_in).unlink()
    said = "\n".join(str(line["MESSAGE"]) for line in await _journal(service))
    assert "Watchdog timeout" in said
    assert re.search(r'File "/wheel/hang/sitecustomize.py", line 4 in hang', said)


@pytest.mark.slow
async def test_drains_when_it_is_stopped(service: Machine, server: Server, provider: Provider, tmp_path: Path) -> None:
    """A stop lets the poll under way end, saves what it found, leaves no lease, and is over in a few seconds."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await _track(server, provider, tmp_path)
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(2), checkpoint(1)]))
    await asyncio.wait_for(reached.wait(), 60)
    stop = asyncio.create_task(_run(service, "systemctl", "stop", SERVICE))
    await _until(service, "StatusText", "^draining$")
    go_on.set()
    began = time.monotonic()
    await stop
    assert time.monotonic() - began < 8, (
        "it ends with the poll, not with the time for it, which is half of twenty seconds"
    )
    assert ["success", "0"] == service.properties(SERVICE, "Result", "ExecMainStatus")
    sql = await asyncpg.connect(_address(server))
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 0 == await sql.fetchval("select count(*) from checkpointd.polling where lease_expires_at is not null")
    await sql.close()


@pytest.mark.slow
async def test_the_key_is_a_credential_alone(
    service: Machine, server: Server, provider: Provider, tmp_path: Path
) -> None:
    """The key is used, and the service alone can read it: it stands in no environment, argument or readable file."""
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
    """What the service logs has its level as the journal's priority, and no prefix in its text."""
    provider.checkpoints[JOB] = error(500)
    await _track(server, provider, tmp_path)
    wanted = {"daemon.ready": "6", "poll.failed": "4"}
    found: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while wanted.keys() - found.keys():
        assert time.monotonic() < deadline, found
        for line in await _journal(service):
            if line.get("_COMM") == "checkpointd" and line["MESSAGE"].startswith("{"):
                found[json.loads(line["MESSAGE"])["event"]] = line["PRIORITY"]
    assert wanted == {event: found[event] for event in wanted}


@pytest.mark.slow
async def test_wrong_settings_are_not_tried_again(service: Machine) -> None:
    """A misspelt setting ends the service for good, and the journal says which one it is."""
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
    """Yield the folder of the service's settings, to change what is in it; at the end all is as it was."""
    machine.run("cp", "-a", "/etc/checkpointd", "/etc/checkpointd.kept")
    try:
        yield machine.root / "etc/checkpointd"
    finally:
        machine.run("sh", "-ec", "rm -r /etc/checkpointd && mv /etc/checkpointd.kept /etc/checkpointd")


@pytest.mark.slow
async def test_a_key_of_another_name(service: Machine, server: Server, provider: Provider) -> None:
    """A source has its key in a file of the name that its settings say; no other is needed, the unit stays as it is.

    Nor is a file with the database's address, where that is a setting; the schema is still upgraded by its owner.
    """
    sql = await asyncpg.connect(_address(server, "postgres"))
    await sql.execute("update checkpointd.schema_migrations set checksum = 'older' where name like 'views%'")
    await sql.close()
    with _changed_files(service) as folder:
        shutil.rmtree(folder / "credentials")
        service.write(f"{CREDENTIALS}/azure_key", f"{KEY}\n")
        service.write(
            "/etc/checkpointd/checkpointd.toml", f"""database_url = "{_address(server)}"
[[sources]]
name = "azure"
kind = "azure"
base_url = "{provider.url}"
api_key = "azure_key"
"""
        )  # fmt: skip
        await _run(service, "timeout", "60", "systemctl", "restart", "checkpointd-migrate", SERVICE)
        assert ["active", "success"] == service.properties("checkpointd-migrate.service", "ActiveState", "Result")
        await _until(service, "ActiveState", "^active$")
        typed = SERVICE_DOCUMENT.blocks("sh", "Operate")[0]
        await _run(service, "sh", "-ec", typed.replace("checkpointd check", f"checkpointd track {JOB}"))
        asked = f"/fine_tuning/jobs/{JOB}/checkpoints"
        async with asyncio.timeout(60):
            while not any(request.path.endswith(asked) for request in provider.requests):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert {KEY} == {request.headers.get("api-key") for request in provider.requests}


@pytest.mark.slow
async def test_what_is_missing_is_said(service: Machine) -> None:
    """Without a database, or without any credential, the service ends for good, and says in one line what it lacks."""
    for gone, expected in (
        (f"{CREDENTIALS}/database_url", "CHECKPOINTD_DATABASE_URL: required for a service: put the URL into"),
        (CREDENTIALS, "the key of source openai: OPENAI_API_KEY is missing or empty"),
    ):
        await _run(service, "systemctl", "stop", SERVICE)
        logged = len(await _journal(service))
        with _changed_files(service):
            await _run(service, "rm", "-r", gone)
            assert "failed" in await _run(service, "systemctl", "start", SERVICE, check=False)
        assert ["failed", "2", "0"] == service.properties(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts")
        new = (await _journal(service))[logged:]
        said = [(line["PRIORITY"], line["MESSAGE"]) for line in new if line["SYSLOG_IDENTIFIER"] == "checkpointd"]
        assert ["3"] == [priority for priority, _ in said]
        assert said[0][1].startswith(f"checkpointd: {expected}")
