"""The status port, and what systemd is told."""

import asyncio
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from checkpointd.postgres.store import Store
from checkpointd.service import systemd
from checkpointd.web import server as web
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, get, running, wait_for_line


async def test_ready_and_not(port: int, store: Store) -> None:
    """/livez answers while the process lives; /readyz says in words what keeps it from its work."""
    problems = ["database: away"]
    async with web.serve("127.0.0.1", port, lambda: problems, store):
        assert (200, "ok\n") == await get(port, "/livez")
        assert (503, "database: away\n") == await get(port, "/readyz")
        problems.clear()
        assert (200, "ok\n") == await get(port, "/readyz")


async def test_port_in_use(port: int, store: Store) -> None:
    """A port in use is no reason to stop."""
    async with web.serve("127.0.0.1", port, list, store), web.serve("127.0.0.1", port, list, store):
        assert (200, "ok\n") == await get(port, "/livez")


async def _heard(channel: socket.socket, word: str) -> str:
    """Wait for a notification with `word`."""
    async with asyncio.timeout(60):
        while word not in (heard := (await asyncio.get_running_loop().sock_recv(channel, 1000)).decode()):
            pass
    return heard


@pytest.mark.parametrize("abstract", [False, True])
async def test_the_daemon_tells(url: str, provider: Provider, tmp_path: Path, port: int, abstract: bool) -> None:
    """The daemon tells systemd that it is ready, that it stops and how long that may take, and has metrics to show."""
    # Not in tmp_path, which may be too long for a socket.
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = f"@checkpointd-test-{port}" if abstract else f"{short}/notify"
        channel.setblocking(False)
        channel.bind(address.replace("@", "\0"))
        env = environment(tmp_path, url, provider.url, NOTIFY_SOCKET=address, CHECKPOINTD_HTTP_PORT=str(port),
                          CHECKPOINTD_DRAIN_SECONDS="600")  # fmt: skip
        provider.checkpoints[JOB] = page([checkpoint(1)])
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as daemon:
            await _heard(channel, "READY=1")
            await wait_for_line(daemon, "poll.changed")
            metrics = (await get(port, "/metrics"))[1]
            assert 'checkpointd_polls_total{outcome="changed",source="openai"} 1.0' in metrics
            assert 'checkpointd_checkpoints_stored_total{source="openai"} 1.0' in metrics
            assert "checkpointd_database_up 1.0" in metrics
            assert JOB not in metrics
            daemon.terminate()
            assert "EXTEND_TIMEOUT_USEC=610000000" in (await _heard(channel, "STOPPING=1")).splitlines()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a systemd, or with one that is gone, telling it is no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify(READY=1)
