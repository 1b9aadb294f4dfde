"""Five replicas share hundreds of jobs, and every two seconds something else goes wrong."""

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import ForkServer, daemon_env, measure_stalls, track
from service.faults.invariants import UNAVAILABLE, Invariants
from service.faults.play import Play
from service.faults.proxy import Proxy
from service.faults.truth import Overlap, Truth
from support.provider import Answer, Provider, body, error, raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * 3600)]

JOBS = 300
GAP = 10.0
LEASE = 15.0
"""The poll gap and the lease, in seconds. Most polls take a tenth of a second."""

LONGEST_WAIT = 6 * (GAP + LEASE)
"""The most seconds between two saved polls of a job. Each fault can cost it a gap and a lease, and there are many."""

PROVIDER_ERRORS: list[Answer] = [error(500), body("<html>", "text/html", 502), raw(b""), body("{")]

TERMINATE = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name = 'checkpointd' and datname = current_database() and random() < 0.5"""

WAITS = """
    select fine_tuning_job_id, extract(epoch from clock_timestamp() - last_complete_at)::float8
    from fine_tuning.freshness"""


class Replica:
    """A daemon with a proxy of its own in front of the database. It can be started again."""

    def __init__(self, proxy: Proxy, fork_server: ForkServer, truth: Truth, home: Path) -> None:
        self.proxy = proxy
        self.is_well = True
        self._fork_server, self._truth, self._home = fork_server, truth, home
        self.key = ""
        self.pid = 0

    async def start(self) -> None:
        """Start the daemon, with a new key."""
        settings = {"MIN_POLL_SECONDS": GAP, "MAX_POLL_SECONDS": GAP, "LEASE_SECONDS": LEASE, "PAGE_SIZE": 15}
        settings |= {"REQUEST_TIMEOUT_SECONDS": 6, "JOB_LIST_SECONDS": 10}
        variables = {f"CHECKPOINTD_{name}": str(value) for name, value in settings.items()}
        env = daemon_env(self._home, self.proxy.url, self._truth.provider.url, **variables)
        self.key = env["OPENAI_API_KEY"]
        self.pid = await self._fork_server.start(env)

    async def restart(self) -> None:
        """Kill the daemon with -9, and start it again."""
        await ForkServer.kill(self.pid)
        await self.start()

    def has_ended(self) -> bool:
        """Return whether the daemon has ended by itself."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


class Chaos:
    """Does harm, each time of another kind, and counts it."""

    def __init__(self, replicas: list[Replica], truth: Truth, sql: asyncpg.Connection, rng: random.Random) -> None:
        self._replicas, self._truth, self._sql, self._rng = replicas, truth, sql, rng
        self.faults = Counter[str]()
        self.suspensions: list[tuple[str, float, float]] = []
        """The key of a daemon, and from when to when it may send late requests."""

    async def go_on(self, seconds: float) -> None:
        """Start a random fault every two seconds, and wait until the last one is over."""
        kinds: list[Callable[[Replica], Awaitable[None]]] = [
            self._kill,
            self._suspend,
            self._black_hole,
            self._cut,
            self._terminate,
            self._provider_errors,
        ]
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                if well := [replica for replica in self._replicas if replica.is_well]:
                    kind = self._rng.choice(kinds)
                    self.faults[kind.__name__.strip("_")] += 1
                    group.create_task(self._do(kind, self._rng.choice(well)))
                await asyncio.sleep(2)  # the pause between two faults

    async def _do(self, kind: Callable[[Replica], Awaitable[None]], replica: Replica) -> None:
        replica.is_well = False
        await kind(replica)
        replica.is_well = True

    async def _kill(self, replica: Replica) -> None:
        await replica.restart()

    async def _suspend(self, replica: Replica) -> None:
        started = time.monotonic()
        os.kill(replica.pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(LEASE, LEASE + 1))  # the time of the suspension
        os.kill(replica.pid, signal.SIGCONT)
        self.suspensions.append((replica.key, started, time.monotonic() + LEASE))

    async def _black_hole(self, replica: Replica) -> None:
        replica.proxy.is_black_hole = True
        await asyncio.sleep(self._rng.uniform(2, 15))  # the time without an answer
        replica.proxy.is_black_hole = False

    async def _cut(self, replica: Replica) -> None:
        replica.proxy.cut_after = lambda: self._rng.uniform(1500, 30000)
        replica.proxy.reset()
        await asyncio.sleep(self._rng.uniform(1, 4))  # in this time connections are cut
        replica.proxy.cut_after = None
        replica.proxy.reset()

    async def _terminate(self, _: Replica) -> None:
        await self._sql.fetchval(TERMINATE)

    async def _provider_errors(self, _: Replica) -> None:
        names = self._rng.sample(self._truth.jobs, JOBS // 10)
        self._truth.faults |= {name: self._rng.choice(PROVIDER_ERRORS) for name in names}
        await asyncio.sleep(self._rng.uniform(1, 4))  # the time of the errors
        for name in names:
            self._truth.faults.pop(name, None)

    def explains(self, overlap: Overlap) -> bool:
        """Return whether a daemon sent it that was suspended, before it noticed that its poll had to end."""
        keys = {overlap.key, overlap.other}
        return any(key in keys and start < overlap.at < end for key, start, end in self.suspensions)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kills through a pidfd, which only Linux has")
@pytest.mark.play("seconds of chaos", short=30, long=3600, round=3600)
async def test_five_replicas_under_chaos(
    url: str,
    provider: Provider,
    play: Play,
    rng: random.Random,
    violations: Counter[str],
    sql: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    """Whatever happens to five replicas, nothing is lost, no job waits for minutes, and no daemon ends."""
    truth = Truth(provider, JOBS, rng)
    await track(url, truth.jobs)
    invariants = Invariants(url, truth, violations)
    waits: defaultdict[str, float] = defaultdict(float)
    log = tmp_path / "log"
    async with AsyncExitStack() as stack:
        fork_server = await stack.enter_async_context(ForkServer(log))
        proxies = [await stack.enter_async_context(Proxy(url)) for _ in range(5)]
        replicas = [Replica(proxy, fork_server, truth, tmp_path) for proxy in proxies]
        for replica in replicas:
            await replica.start()
        await invariants.until_all_is_stored()
        chaos = Chaos(replicas, truth, sql, rng)
        measuring = asyncio.create_task(_measure(url, waits))
        async with measure_stalls() as stalled:
            async with invariants.checked(growth=3, pause=10):
                await chaos.go_on(play.amount)
            play.made = play.amount
            play.recoveries.append(await invariants.until_all_is_stored())
            late = stalled()
        measuring.cancel()
        assert [False] * 5 == [replica.has_ended() for replica in replicas]
    longest = sorted(waits.values())
    print(f"longest wait of a job {longest[-1]:.1f} s, median {longest[JOBS // 2]:.1f} s; stalled for {late:.1f} s")  # noqa: T201
    print(f"{dict(chaos.faults)}; {len(truth.listed)} checkpoints, {invariants.checks} checks")  # noqa: T201
    assert "Traceback" not in log.read_text()
    assert LONGEST_WAIT + late > longest[-1]
    assert [] == [overlap for overlap in truth.overlaps if not chaos.explains(overlap)]


async def _measure(url: str, waits: defaultdict[str, float]) -> None:
    """Measure for how long each job has waited for a saved poll, every second. Keeps the longest wait of each."""
    while True:
        with suppress(*UNAVAILABLE):
            sql = await asyncpg.connect(url, timeout=5)
            try:
                while True:
                    for name, seconds in await sql.fetch(WAITS):
                        waits[name] = max(waits[name], seconds or 0.0)
                    await asyncio.sleep(1)  # the pause between two measurements
            finally:
                sql.terminate()
