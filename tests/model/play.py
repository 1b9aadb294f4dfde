"""Plays histories: two daemons over a real server and a real PostgreSQL, and after each step a look at the views."""

import asyncio
import copy
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import aiohttp
import asyncpg
import pytest
from hypothesis import note
from structlog.testing import capture_logs

from checkpointd.polling.job_list import JobList
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import SaveQueue
from checkpointd.polling.setup import open_poller
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider import client
from checkpointd.provider.http import Limits, open_session
from checkpointd.telemetry.health import Health
from model.reference import Effect, Model
from model.replay import Feed
from model.steps import Overtake, Poll, Race, ReportStatus, Resync, Step, Stop
from model.views import Views, differences, read_views
from model.world import Damage, Edit, Fault, Script, World
from support.harness import CADENCE
from support.provider import Provider, job, page
from support.wire import Wire

PAGE_LIMIT = 8
"""The most pages of a listing, except in the last polls of a history."""

LEASE_SECONDS = 60.0


class Daemon:
    """A daemon in this process, with a wire to PostgreSQL of its own. It polls when poll() is called."""

    poller: Poller
    source: ActiveSource
    life: asyncio.Task[None]
    """Ends when the daemon has stopped."""

    def __init__(self, name: str, store: Store, wire: Wire, http: aiohttp.ClientSession, provider: Provider) -> None:
        self.name = name
        self.wire = wire
        self._store = store
        self._http = http
        self._provider = provider
        self._stop = asyncio.Event()

    async def start(self, source: int, page_size: int) -> None:
        """Start for one source, as a new process would."""
        limits = Limits(page_size, request_timeout=5, backoff=0)
        api = client.Client(self._http, self._provider.url, {"X-Daemon": self.name}, {}, limits)
        self.source = ActiveSource(source, "test", api, concurrency=8, request_interval=None)
        self._stop.clear()
        ready = asyncio.Event()
        self.life = asyncio.create_task(self._live(ready))
        await ready.wait()

    async def _live(self, ready: asyncio.Event) -> None:
        health = Health()
        queue = SaveQueue(self._store, health)
        async with open_poller(self._store, [self.source], CADENCE, LEASE_SECONDS, queue, health, 0) as self.poller:
            ready.set()
            await self._stop.wait()

    def request_stop(self) -> None:
        """Let the daemon drain, without any time for it, and end."""
        self._stop.set()

    async def poll(self) -> int:
        """Tick once, and wait until the polls are saved. Returns how many polls were started.

        A source that was silent may be polled again: enough time has passed since the last poll.
        """
        self.source.attribution.end_silence()
        claimed = await self.poller.tick()
        if claimed:
            await self.poller.idle()
            await self.poller.queue.saved()
        return claimed


class Environment:
    """What all histories share: a database, a provider, and two daemons."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = AsyncExitStack()
        self._connections: list[asyncpg.Connection] = []
        """Those that the stores have opened."""
        self.counts: Counter[str] = Counter()
        """What the polls of all histories found."""

    async def open(self) -> None:
        """Open everything."""
        enter = self._stack.enter_async_context
        self.sql = await asyncpg.connect(self._url)
        self._stack.push_async_callback(self.sql.close)
        self.provider = await enter(Provider())
        http = await enter(open_session())
        self.operator = await enter(open_store(functools.partial(self._connect, self._url)))
        self.daemons = {}
        for name in ("A", "B"):
            wire = await enter(Wire(self._url))
            store = await enter(open_store(functools.partial(self._connect, wire.url)))
            self.daemons[name] = Daemon(name, store, wire, http, self.provider)

    async def close(self) -> None:
        """Close everything."""
        await self._stack.aclose()

    async def _connect(self, url: str) -> asyncpg.Connection:
        connection = await connect(url)
        self._connections.append(connection)
        return connection

    async def pass_time(self, source: int) -> None:
        """Let enough time pass: jobs are due, leases have expired, and pauses are over.

        Leases are never lost twice in a row: then the job would back off, which the model does not know.
        """
        await self.sql.execute(
            """
            update checkpointd.polling set next_poll_at = clock_timestamp(), lease_was_lost = false,
              lease_expires_at = case when lease_expires_at is not null then clock_timestamp() end
            where source = $1""",
            source,
        )
        await self.sql.execute("update checkpointd.sources set resume_at = null where key = $1", source)

    async def settle(self) -> None:
        """Wait until PostgreSQL has ended all statements, also those of connections that were cut or cancelled."""
        states = """
            select array_agg(state) from pg_stat_activity
            where datname = current_database() and application_name = 'checkpointd'"""
        while True:
            self._connections = [connection for connection in self._connections if not connection.is_closed()]
            if ["idle"] * len(self._connections) == (await self.sql.fetchval(states) or []):
                return
            await asyncio.sleep(0.002)  # the server sends no event when a session ends

    def count(self, effect: Effect) -> None:
        """Count what a poll found."""
        self.counts["polls"] += 1
        self.counts["complete"] += effect.complete
        self.counts.update(change.kind for change in effect.changes)


class History:
    """One history: a job of a source of its own, polled by two daemons."""

    def __init__(self, environment: Environment, number: int) -> None:
        self._env = environment
        self._a, self._b = environment.daemons["A"], environment.daemons["B"]
        self._source, self._job = f"history-{number}", f"ftjob-{number}"
        self._world, self._model, self._feed = World(self._job), Model(), Feed(self._job)
        self._listed: set[str] = set()
        """The readable checkpoints that have been listed without interruption since the current poll began."""
        self._views: Views
        """What the views showed after the last step."""

    async def play(self, page_size: int, steps: Sequence[Step]) -> None:
        """Play the steps, and then two polls without faults, after which all that is listed must be stored."""
        keys = await self._env.operator.register_sources({self._source: "openai"})
        self._key, self._page_size = keys[self._source], page_size
        await self._env.operator.track(self._key, [self._job])
        self._env.provider.checkpoints = {self._job: self._world.answer}
        self._env.provider.requests.clear()
        self._views = await read_views(self._env.sql, self._source)
        daemons = (self._a, self._b)
        try:
            for daemon in daemons:
                await daemon.start(self._key, page_size)
            with capture_logs() as lines:
                for step in steps:
                    note(f"    {step},")
                    await self._do(step)
                await self._end()
            assert [] == [line for line in lines if line["event"].endswith("crashed")]
        finally:
            for daemon in daemons:
                daemon.wire.mend()
                daemon.request_stop()
                await asyncio.wait([daemon.life])

    async def _end(self) -> None:
        for at in range(len(self._world.listed)):
            self._world.edit(Damage(at, None))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "PAGES", 1000)
            for by in ("A", "B"):
                await self._poll(Poll(by), page_limit=1000)
        readable = self._world.readable
        stored = self._model.checkpoints
        assert readable.items() <= {name: checkpoint.item for name, checkpoint in stored.items()}.items()
        assert stored.keys() - readable.keys() == {name for name, checkpoint in stored.items() if checkpoint.missing}

    async def _do(self, step: Step) -> None:
        match step:
            case Poll():
                await self._poll(step)
            case Stop():
                await self._stop(step)
            case Race():
                await self._race(step)
            case Overtake():
                await self._overtake(step)
            case Resync():
                await self._resync()
            case ReportStatus():
                await self._report_status(step)
            case _:
                self._world.edit(step)

    async def _poll(self, step: Poll, page_limit: int = PAGE_LIMIT) -> None:
        daemon = self._env.daemons[step.by]
        script = await self._prepare(daemon, step.faults, step.edits)
        if step.cut is not None:
            daemon.wire.cut(step.cut)
        claimed = await daemon.poll()
        daemon.wire.mend()
        if step.cut is None:
            assert 1 == claimed
        else:
            await self._env.settle()
        await self._check_poll(script, page_limit)

    async def _stop(self, step: Stop) -> None:
        daemon = self._env.daemons[step.by]
        script = await self._prepare(daemon, step.faults, hold=step.page)
        poll = asyncio.create_task(daemon.poll())
        if step.page is not None:
            await self._reached_or_ended(script, poll)
        await self._let_run(poll, step.turns)
        poll.cancel()
        await asyncio.wait([poll])
        daemon.request_stop()
        if step.cancel_after is not None:
            await self._let_run(daemon.life, step.cancel_after)
            daemon.life.cancel()
        await asyncio.wait([daemon.life])
        script.go_on.set()
        await self._env.settle()
        await self._check_poll(script, PAGE_LIMIT, may_be_unsaved=True)
        await daemon.start(self._key, self._page_size)

    async def _race(self, step: Race) -> None:
        daemons = (self._a, self._b)
        scripts = [await self._prepare(daemon, step.faults) for daemon in daemons]
        claims = await asyncio.gather(*(daemon.poll() for daemon in daemons))
        polled = [script for script, claimed in zip(scripts, claims, strict=True) if claimed]
        # A released job is due again at once, and the other daemon may claim it.
        saved = [script for script in polled if not script.is_released]
        assert len(saved) <= 1 <= len(polled)
        await self._check_poll((saved or polled)[0], PAGE_LIMIT)

    async def _overtake(self, step: Overtake) -> None:
        late_script = await self._prepare(self._a, hold=step.page)
        late = asyncio.create_task(self._a.poll())
        await self._reached_or_ended(late_script, late)
        if late.done():  # the list has no such page
            await self._check_poll(late_script, PAGE_LIMIT)
            return
        for edit in step.edits:
            self._world.edit(edit)
        script = await self._prepare(self._b, hold=0 if step.last else None)
        overtaking = asyncio.create_task(self._b.poll())
        if step.last:
            await script.reached.wait()
        else:
            assert 1 == await overtaking
            await self._check_poll(script, PAGE_LIMIT)
        late_script.go_on.set()
        await late
        await self._check([(self._model, Effect())])  # the poll that lost its lease wrote nothing
        if step.last:
            script.go_on.set()
            assert 1 == await overtaking
            await self._check_poll(script, PAGE_LIMIT)

    async def _resync(self) -> None:
        operator = self._env.operator
        assert 1 == await operator.resync(await operator.find_jobs([self._job]))

    async def _report_status(self, step: ReportStatus) -> None:
        self._env.provider.jobs = page([job(self._job, step.status)])
        effect = self._model.apply_status(step.status)
        job_list = JobList(
            self._env.operator, self._a.source, Health(), gap=30, lease_seconds=LEASE_SECONDS, max_new_jobs=0
        )
        await job_list.tick(due_or_not=True)
        await self._check([(self._model, effect)])

    async def _prepare(
        self,
        daemon: Daemon,
        faults: tuple[Fault, ...] = (),
        edits: tuple[tuple[int, Edit | Resync], ...] = (),
        hold: int | None = None,
    ) -> Script:
        """Make the job due, leased or not, and set what happens during the next poll of a daemon."""
        order = [one.number for one in self._world.listed]

        def apply(edit: Edit | Resync) -> Callable[[], Awaitable[None]]:
            async def work() -> None:
                await self._do(edit)
                self._listed &= self._world.readable.keys()
                now = [one.number for one in self._world.listed]
                if [n for n in now if n in order] != [n for n in order if n in now]:
                    self._listed.clear()  # one left the list and returned to another place: perhaps it was the cursor

            return work

        script = Script(faults, tuple((index, apply(edit)) for index, edit in edits), hold)
        self._world.scripts[daemon.name] = script
        self._listed = set(self._world.readable)
        self._attempted_before = self._views.freshness["last_attempt_at"]
        await self._env.pass_time(self._key)
        return script

    async def _check_poll(self, script: Script, page_limit: int, *, may_be_unsaved: bool = False) -> None:
        """Compare the views with the model after a poll that was saved or, if `may_be_unsaved`, perhaps was not."""
        unsaved = [(copy.deepcopy(self._model), Effect())] if may_be_unsaved else []
        saved = (self._model, self._model.apply_poll(script.answers, page_limit))
        effect = await self._check([saved, *unsaved])
        assert not script.answers or self._attempted_before != self._views.freshness["last_attempt_at"]
        if effect.complete:
            assert self._listed <= self._views.checkpoints.keys(), "listed all the time, and not stored"
        self._env.count(effect)

    async def _check(self, outcomes: Sequence[tuple[Model, Effect]]) -> Effect:
        """Compare the views with the possible outcomes of a step, and go on with the one that matches."""
        before, self._views = self._views, await read_views(self._env.sql, self._source)
        feed = await self._feed.differences(self._env.sql, self._views.changes, self._views.checkpoints.values())
        found = [feed | differences(model, effect, before, self._views) for model, effect in outcomes]
        for (model, effect), difference in zip(outcomes, found, strict=True):
            if not difference:
                self._model = model
                return effect
        for aspect, (expected, shown) in found[0].items():
            note(f"{aspect}:\n  expected {expected}\n  shown    {shown}")
        raise AssertionError(f"the views and the model differ in: {', '.join(found[0])}")

    @staticmethod
    async def _let_run(task: asyncio.Task[object], turns: int) -> None:
        """Let a task run for so many turns of the event loop, or to its end."""
        for _ in range(turns):
            if not task.done():
                await asyncio.sleep(0)  # one turn of the event loop

    @staticmethod
    async def _reached_or_ended(script: Script, poll: asyncio.Task[int]) -> None:
        """Wait until the held page is requested, or the poll has ended without it."""
        waiting = asyncio.create_task(script.reached.wait())
        await asyncio.wait([waiting, poll], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
