"""The reports to systemd: the state of the daemon, and WATCHDOG=1 as long as its work goes on."""

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

from checkpointd.domain.attribution import Attribution
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store, open_store
from checkpointd.service import systemd, watchdog
from checkpointd.telemetry.health import Health
from support.harness import polling_one, sync, tick, track, until
from support.provider import JOB, Provider, checkpoint, error, held, page
from support.verbs import checkpointd, environment, running, wait_for_line


@pytest.fixture
def notifications(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the socket on which systemd would listen. NOTIFY_SOCKET names it to this process and its children."""
    # Not in tmp_path, whose path may be too long for a socket.
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.bind(f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        yield bound


@pytest.fixture
def advance_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that advances the time that the event loop reports."""
    ahead = 0.0

    def advance(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + ahead, raising=False)

    return advance


async def _wait_for(notifications: socket.socket, word: str) -> None:
    """Wait for a notification that contains a word, and skip all others."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while word not in (await loop.sock_recv(notifications, 1000)).decode():
            pass


def _take_all(notifications: socket.socket) -> list[str]:
    """Take the notifications that have arrived, without waiting."""
    taken = []
    with suppress(BlockingIOError):
        while notification := notifications.recv(1000):
            taken.append(notification.decode())
    return taken


@asynccontextmanager
async def _reporting(store: Store, stuck: watchdog.Stuck) -> AsyncIterator[None]:
    """Feed the watchdog and report the status during the block."""
    works = (watchdog.feed_watchdog(stuck), watchdog.report_status(store, Health(), asyncio.Event()))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_status(store: Store, provider: Provider, sql: asyncpg.Connection, url: str, health: Health) -> None:
    """STATUS= has the numbers of tracked, due and failing jobs and the age of the last poll, or what is awaited."""
    assert "polling: 0 tracked, 0 due, 0 failing" == await watchdog.status_line(store, health)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider, JOB, "ftjob-failing")
    await track(store, "ftjob-due", "ftjob-untracked")
    await store.untrack(await store.find_jobs(["ftjob-untracked"]))
    await sql.execute(
        "update checkpointd.polling set last_attempt_at = last_attempt_at - interval '90 s',"
        " next_poll_at = case when last_attempt_at is null then next_poll_at else 'infinity' end"
    )
    status = await watchdog.status_line(store, health)
    assert re.fullmatch(r"polling: 3 tracked, 1 due, 1 failing, last poll (9|1\d)\d s ago", status)
    refused = Attribution()
    refused.record_poll(1, Failure(ErrorClass.REFUSED, "no such key"), 0, has_pages=False)
    health.record_source("azure", refused)
    assert (await watchdog.status_line(store, health)).endswith(" s ago; source azure refused")
    health.record_source("azure", Attribution())
    with suppress(DatabaseUnavailableError), health.unit("claim"):
        raise DatabaseUnavailableError("OSError: away", "OSError")
    assert "waiting: database: claim failed: OSError: away" == await watchdog.status_line(store, health)
    async with open_store(lambda: connect(url.replace("test_", "none_", 1))) as nowhere:
        status = await watchdog.status_line(nowhere, Health())
    assert re.match(r"waiting: database: \S+: InvalidCatalogNameError: ", status)


async def test_watchdog_is_fed_while_nothing_is_stuck(
    notifications: socket.socket, monkeypatch: pytest.MonkeyPatch, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The watchdog is fed at half of its time, but not while something is stuck, nor after the loop was blocked."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setattr(watchdog, "LAG_SECONDS", 0.3)
    reason: str | None = None
    called = asyncio.Event()

    def stuck() -> str | None:
        called.set()
        return reason

    async def next_call() -> None:
        called.clear()
        await asyncio.wait_for(called.wait(), 60)

    async with _reporting(store, stuck):
        await _wait_for(notifications, "STATUS=polling")
        _take_all(notifications)
        started = time.monotonic()
        for _ in range(4):
            await _wait_for(notifications, "WATCHDOG=1")
        assert 0.29 < time.monotonic() - started < 30
        reason = "no tick"
        await next_call()
        _take_all(notifications)
        await next_call()
        assert "WATCHDOG=1" not in _take_all(notifications)
        reason = None
        await _wait_for(notifications, "WATCHDOG=1")
        time.sleep(0.6)  # noqa: ASYNC251  # blocks the event loop for longer than LAG_SECONDS
        _take_all(notifications)
        await _wait_for(notifications, "WATCHDOG=1")
        assert "the event loop was blocked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_seconds(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], seconds: float | None) -> None:
    """The time of the watchdog is that of WATCHDOG_USEC, if it is a number and meant for this process."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert seconds == systemd.watchdog_seconds()


async def test_ticks_that_stop(store: Store, provider: Provider, advance_clock: Callable[[float], None]) -> None:
    """Without a tick for 45 seconds the poller is stuck, until the next tick."""
    async with polling_one(store, provider) as (poller, _, _):
        advance_clock(30)
        assert poller.stuck() is None
        advance_clock(20)
        assert re.fullmatch(r"no tick has ended for [5-9]\d s", poller.stuck() or "")
        await tick(poller)
        assert poller.stuck() is None


async def test_a_poll_that_outlives_its_lease(
    store: Store, provider: Provider, advance_clock: Callable[[float], None]
) -> None:
    """A request that still runs long after its lease expired is stuck; a poll that ended, failed or not, is not."""
    provider.checkpoints[JOB], reached, go_on = held(page([checkpoint(1)]))
    provider.checkpoints["ftjob-failing"] = error(404)
    await track(store, JOB, "ftjob-failing")
    async with polling_one(store, provider, lease=20, request_timeout=60) as (poller, _, outcomes):
        await poller.tick()
        await asyncio.wait_for(reached.wait(), 60)
        advance_clock(18)
        assert poller.stuck() is None
        advance_clock(9)
        assert re.fullmatch(r"a poll has outlived its lease by ([7-9]|1\d) s", poller.stuck() or "")
        go_on.set()
        await tick(poller)
        assert poller.stuck() is None
    assert {JOB, "ftjob-failing"} == outcomes.keys()


async def test_a_save_that_hangs(
    store: Store, provider: Provider, sql: asyncpg.Connection, advance_clock: Callable[[float], None]
) -> None:
    """A save that has been running for more than five minutes is stuck."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await track(store)
    async with polling_one(store, provider) as (poller, _, _):
        lock = sql.transaction()
        await lock.start()
        await sql.execute("lock table checkpointd.checkpoints")
        await tick(poller)
        await until(poller.queue.saving_seconds)
        advance_clock(280)
        assert "a save" not in (poller.stuck() or "")
        advance_clock(25)
        assert re.fullmatch(r"a save has been running for 3[01]\d s", poller.stuck() or "")
        await lock.rollback()


@pytest.mark.slow
async def test_watchdog_is_fed_while_the_database_is_down(
    notifications: socket.socket, provider: Provider, tmp_path: Path
) -> None:
    """A database that stops does not stop the feeding of the watchdog: a restart of the daemon would not help."""
    async with EmbeddedPostgres(tmp_path / "postgres", sync=False) as database:
        env = environment(
            tmp_path,
            database.url,
            provider.url,
            NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
            WATCHDOG_USEC="200000",
            CHECKPOINTD_MIN_POLL_SECONDS="0.1",
        )
        await checkpointd("migrate", env=env)
        async with running("run", env=env) as daemon:
            await _wait_for(notifications, "WATCHDOG=1")
            await database.stop()
            await wait_for_line(daemon, "database.unavailable")
            _take_all(notifications)
            for _ in range(10):
                await _wait_for(notifications, "WATCHDOG=1")
            daemon.terminate()
            await _wait_for(notifications, "STOPPING=1")
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
