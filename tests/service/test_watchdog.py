"""What systemd is told while the daemon runs: how it fares, and that its work goes on, or not."""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store, open_store
from checkpointd.service import systemd
from checkpointd.service import watchdog as watch
from checkpointd.telemetry.health import Health
from support.harness import polling_one, sync, tick, track
from support.provider import JOB, Provider, checkpoint, error, held, page
from support.verbs import checkpointd, environment, running, wait_for_line


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the end at which systemd would listen; this process and its children are told where it is."""
    # Not in tmp_path, which may be too long for a socket.
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.bind(f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        yield bound


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what moves the loop's clock on, in the eyes of whoever asks for the time."""
    ahead = 0.0

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + ahead, raising=False)

    return move


async def _heard(channel: socket.socket, word: str) -> str:
    """Wait for what has this word in it, whatever else is said before."""
    async with asyncio.timeout(60):
        while word not in (heard := (await asyncio.get_running_loop().sock_recv(channel, 1000)).decode()):
            pass
    return heard


def _said(channel: socket.socket) -> list[str]:
    """Take what was said so far, without waiting."""
    said = []
    with suppress(BlockingIOError):
        while heard := channel.recv(1000):
            said.append(heard.decode())
    return said


@asynccontextmanager
async def watching(store: Store, stuck: watch.Stuck) -> AsyncIterator[None]:
    """Feed the watchdog and report the status meanwhile."""
    work = (watch.feed_watchdog(stuck), watch.report_status(store, Health(), asyncio.Event()))
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_status(store: Store, provider: Provider, sql: asyncpg.Connection, url: str, health: Health) -> None:
    """STATUS= counts tracked, due and failing jobs and tells the last poll's age; or what the daemon waits for."""
    assert "polling: 0 tracked, 0 due, 0 failing" == await watch.status_line(store, health)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider, JOB, "ftjob-failing")
    await track(store, "ftjob-due", "ftjob-untracked")
    await store.untrack(await store.find_jobs(["ftjob-untracked"]))
    await sql.execute(
        "update checkpointd.polling set last_attempt_at = last_attempt_at - interval '90 s',"
        " next_poll_at = case when last_attempt_at is null then next_poll_at else 'infinity' end"
    )
    status = await watch.status_line(store, health)
    assert re.fullmatch(r"polling: 3 tracked, 1 due, 1 failing, last poll (9|1\d)\d s ago", status)
    health.record_source("azure", Failure(ErrorClass.REFUSED, "no such key"))
    assert (await watch.status_line(store, health)).endswith(" s ago; source azure refused")
    health.record_source("azure", None)
    with suppress(DatabaseUnavailableError), health.unit("claim"):
        raise DatabaseUnavailableError("OSError: away", "OSError")
    assert "waiting: database: claim failed: OSError: away" == await watch.status_line(store, health)
    async with open_store(lambda: connect(url.replace("test_", "none_", 1))) as nowhere:
        status = await watch.status_line(nowhere, Health())
    assert re.match(r"waiting: database: \S+: InvalidCatalogNameError: ", status)


async def test_fed_while_all_goes_on(
    channel: socket.socket, monkeypatch: pytest.MonkeyPatch, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The watchdog is fed at half of its time while nothing is stuck and the loop is not blocked, and only then."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setattr(watch, "LAG_SECONDS", 0.3)
    reasons: list[str | None] = [None]
    asked = asyncio.Event()

    def stuck() -> str | None:
        asked.set()
        return reasons[0]

    async with watching(store, stuck):
        await _heard(channel, "STATUS=polling")
        _said(channel)
        began = time.monotonic()
        for _ in range(4):
            await _heard(channel, "WATCHDOG=1")
        assert 0.29 < time.monotonic() - began < 30
        reasons[0] = "no tick"
        asked.clear()
        await asyncio.wait_for(asked.wait(), 60)
        _said(channel)
        asked.clear()
        await asyncio.wait_for(asked.wait(), 60)
        assert "WATCHDOG=1" not in _said(channel)
        reasons[0] = None
        await _heard(channel, "WATCHDOG=1")
        time.sleep(0.6)  # noqa: ASYNC251  # the loop is blocked: that is what is to be found
        _said(channel)
        await _heard(channel, "WATCHDOG=1")
        assert "the event loop was blocked" in capsys.readouterr().out


@pytest.mark.parametrize(("variables", "seconds"), [
    ({}, None), ({"WATCHDOG_USEC": "60000000"}, 60.0), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "x"}, None),
    ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
    ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
])  # fmt: skip
def test_whose_watchdog(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float | None) -> None:
    """The watchdog is fed where systemd says so, to this very process."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert seconds == systemd.watchdog_seconds()


async def test_ticks_that_stop(store: Store, provider: Provider, clock: Callable[[float], None]) -> None:
    """Without a tick for half a minute the daemon is stuck; with the next one it is not."""
    async with polling_one(store, provider) as (poller, _, _):
        clock(20)
        assert poller.stuck() is None
        clock(20)
        assert re.fullmatch(r"no tick has ended for [4-9]\d s", poller.stuck() or "")
        await tick(poller)
        assert poller.stuck() is None


async def test_a_poll_that_outlives_its_lease(store: Store, provider: Provider, clock: Callable[[float], None]) -> None:
    """A request that is still under way well after its lease is stuck; one that failed or ended is not."""
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints["ftjob-failing"] = error(404)
    await track(store, JOB, "ftjob-failing")
    async with polling_one(store, provider, lease=20, request_timeout=60) as (poller, _, results):
        await poller.tick()
        await asyncio.wait_for(reached.wait(), 60)
        clock(18)
        assert poller.stuck() is None
        clock(9)
        assert re.fullmatch(r"a poll has outlived its lease by ([7-9]|1\d) s", poller.stuck() or "")
        go_on.set()
        await tick(poller)
        assert poller.stuck() is None
    assert {JOB, "ftjob-failing"} == results.keys()


async def test_a_save_that_hangs(
    store: Store, provider: Provider, sql: asyncpg.Connection, clock: Callable[[float], None]
) -> None:
    """A save that has been under way for minutes is stuck."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await track(store)
    async with polling_one(store, provider) as (poller, _, _):
        lock = sql.transaction()
        await lock.start()
        await sql.execute("lock table checkpointd.checkpoints")
        await tick(poller)
        async with asyncio.timeout(60):
            while not poller.queue.saving_seconds():  # noqa: ASYNC110  # gives no event
                await asyncio.sleep(0.01)
        clock(280)
        assert "a save" not in (poller.stuck() or "")
        clock(25)
        assert re.fullmatch(r"a save has been running for 3[01]\d s", poller.stuck() or "")
        await lock.rollback()


@pytest.mark.slow
async def test_fed_while_the_database_is_down(channel: socket.socket, provider: Provider, tmp_path: Path) -> None:
    """A database that goes away is no reason to be restarted: the watchdog is fed on."""
    async with EmbeddedPostgres(tmp_path / "postgres", sync=False) as database:
        env = environment(tmp_path, database.url, provider.url, NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
                          WATCHDOG_USEC="200000", CHECKPOINTD_MIN_POLL_SECONDS="0.1")  # fmt: skip
        await checkpointd("migrate", env=env)
        async with running("run", env=env) as daemon:
            await _heard(channel, "WATCHDOG=1")
            await database.stop()
            await wait_for_line(daemon, "database.unavailable")
            _said(channel)
            for _ in range(10):
                await _heard(channel, "WATCHDOG=1")
            daemon.terminate()
            await _heard(channel, "STOPPING=1")
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
