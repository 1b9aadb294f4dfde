"""The health checks of the status port, and the notifications to systemd."""

import asyncio
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from checkpointd.domain.attribution import Attribution
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.store import Store
from checkpointd.service import systemd
from checkpointd.telemetry.health import Health
from checkpointd.web import server as web
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import checkpointd, environment, get, running, wait_for_line


async def test_livez_and_readyz(port: int, store: Store) -> None:
    """/livez answers while the process lives. /readyz reports the problems that keep the daemon from working."""
    problems = ["database: away"]
    async with web.serve("127.0.0.1", port, lambda: problems, store, ["test"]):
        assert (200, "ok\n") == await get(port, "/livez")
        assert (503, "database: away\n") == await get(port, "/readyz")
        problems.clear()
        assert (200, "ok\n") == await get(port, "/readyz")


async def test_sources_and_readyz(port: int, store: Store) -> None:
    """/readyz names the sources that are not ok. It fails only if no source can be polled."""
    health = Health()
    sources = {name: Attribution() for name in ("a", "b")}
    unreachable = Failure(ErrorClass.UNREACHABLE, "no connection")
    async with web.serve(
        "127.0.0.1",
        port,
        health.problems,
        store,
        ["test"],
        health.source_problems,
        lambda: health.can_poll(len(sources)),
    ):
        for name, expected in (
            ("a", (200, "ok\nsource a failing\n")),
            ("b", (503, "no source can be polled\nsource a failing\nsource b failing\n")),
        ):
            sources[name].record_poll(1, unreachable, 0, has_pages=False)
            health.record_source(name, sources[name])
            assert expected == await get(port, "/readyz")


async def test_port_in_use(port: int, store: Store) -> None:
    """A port that is in use does not stop the daemon."""
    async with web.serve("127.0.0.1", port, list, store, ["test"]), web.serve("127.0.0.1", port, list, store, ["test"]):
        assert (200, "ok\n") == await get(port, "/livez")


async def _receive(channel: socket.socket, word: str) -> str:
    """Receive notifications until one contains `word`, and return it."""
    async with asyncio.timeout(60):
        while word not in (received := (await asyncio.get_running_loop().sock_recv(channel, 1000)).decode()):
            pass
    return received


@pytest.mark.parametrize("abstract", [False, True])
async def test_notifications(url: str, provider: Provider, tmp_path: Path, port: int, abstract: bool) -> None:
    """The daemon notifies systemd when it is ready, and when it stops and how long that may take. It serves metrics."""
    # The path of a socket must be short, and tmp_path may be too long for it.
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = f"@checkpointd-test-{port}" if abstract else f"{short}/notify"
        channel.setblocking(False)
        channel.bind(address.replace("@", "\0"))
        env = environment(
            tmp_path,
            url,
            provider.url,
            NOTIFY_SOCKET=address,
            CHECKPOINTD_HTTP_PORT=str(port),
            CHECKPOINTD_DRAIN_SECONDS="600",
        )
        provider.checkpoints[JOB] = page([checkpoint(1)])
        await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as daemon:
            await _receive(channel, "READY=1")
            await wait_for_line(daemon, "poll.changed")
            metrics = (await get(port, "/metrics"))[1]
            assert 'checkpointd_polls_total{outcome="changed",source="openai"} 1.0' in metrics
            assert 'checkpointd_checkpoints_stored_total{source="openai"} 1.0' in metrics
            assert "checkpointd_database_up 1.0" in metrics
            assert JOB not in metrics
            daemon.terminate()
            assert "EXTEND_TIMEOUT_USEC=610000000" in (await _receive(channel, "STOPPING=1")).splitlines()


def test_notifications_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A notification without systemd, or after its socket was removed, is not an error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify(READY=1)
