"""Histories: whatever a provider does, and whatever befalls the daemons, the views show what may be known.

Hypothesis makes up histories: lists of the things below and of those in world.py. Two daemons play each one over a real
server and a real PostgreSQL, and after each step the views are compared with the model (model.py).
"""

import asyncio
import copy
import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from checkpointd.polling import save_queue as outbox
from checkpointd.polling.job_list import JobList
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import SaveQueue
from checkpointd.polling.setup import open_poller
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import connection
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider import client as api
from checkpointd.provider.client import Client
from checkpointd.provider.http import Limits, open_session
from checkpointd.telemetry.health import Health
from model import world as w
from model.reference import Change, Model, Told, Value
from model.world import Edit, Script, World
from support.harness import BOUNDS
from support.provider import Provider, job, page
from support.spoilt import FAULTS
from support.wire import COMMIT, Wire

HISTORIES = int(os.environ.get("HISTORIES", "120"))
MOST_PAGES = 8
LEASE = 60.0


class Poll(NamedTuple):
    """A daemon polls the job; the answer to a message to PostgreSQL, or to the commit, may get lost."""

    by: str = "A"
    faults: tuple[w.Fault, ...] = ()
    edits: tuple[tuple[int, "Edit | Resync"], ...] = ()
    cut: int | None = None


class Stop(NamedTuple):
    """A daemon is stopped so many turns of the loop into a poll, or while it waits for a page; it starts anew.

    So many turns later (`again`) whatever it still does is cancelled.
    """

    by: str
    page: int | None
    after: int
    again: int | None
    faults: tuple[w.Fault, ...] = ()


class Race(NamedTuple):
    """Both daemons look for work at the same time."""

    faults: tuple[w.Fault, ...] = ()


class Overtake(NamedTuple):
    """A's lease runs out while it waits for a page; B polls, and ends before A or (`last`) after it."""

    page: int
    edits: tuple[Edit, ...]
    last: bool


class Resync(NamedTuple):
    """Somebody has the job compared in full again."""


class Tell(NamedTuple):
    """The job list tells a status."""

    status: str


Step = Edit | Poll | Stop | Race | Overtake | Resync | Tell

numbers = st.integers(0, 7)
turns = st.integers(0, 24).map(lambda n: round(1.37**n) - 1)  # a poll takes some hundreds: as many soon as late in it
values = st.sampled_from([0.5, 0.25, 0, 1, 1.0, 1e-7, 123456.75, None, None, None, w.ABSENT, w.ABSENT, w.NOT_FINITE])
edits: st.SearchStrategy[Edit] = st.one_of(
    st.builds(w.Publish, count=st.integers(1, 7), at=st.sampled_from([0, 0, 0, 1, 4])),
    st.builds(w.Withdraw, count=st.integers(1, 4), at=numbers),
    st.builds(w.Restore, at=numbers),
    st.builds(w.Double, at=numbers),
    st.builds(w.Change, at=numbers, field=st.sampled_from(w.METRICS), value=values),
    st.builds(w.Change, at=st.integers(0, 2), field=st.sampled_from(w.METRICS[:2]), value=values),
    st.builds(w.Change, at=numbers, field=st.just("step_number"), value=st.integers(1, 9)),
    st.builds(w.Change, at=numbers, field=st.just("fine_tuned_model_checkpoint"), value=st.sampled_from(["a", "b"])),
    st.builds(w.Spoil, at=numbers, flaw=st.sampled_from([None, None, *w.FLAWS])),
)
faults = st.lists(
    st.builds(
        w.Fault, page=st.integers(0, 4), kind=st.sampled_from([*FAULTS, w.IGNORED]), times=st.sampled_from([1, 9])
    ),
    max_size=2,
).map(tuple)
daemons = st.sampled_from(["A", "B"])
polls = st.builds(
    Poll,
    by=daemons,
    faults=st.one_of(st.just(()), faults),
    edits=st.lists(st.tuples(st.integers(0, 4), st.one_of(edits, st.builds(Resync))), max_size=2).map(tuple),
    cut=st.one_of(st.none(), st.none(), st.none(), st.just(COMMIT), st.integers(1, 24)),
)
actions = st.sampled_from([
    *[polls] * 6,
    st.builds(Stop, daemons, st.none(), turns, st.one_of(st.none(), turns), faults),
    st.builds(Stop, daemons, st.integers(0, 3), st.just(0), st.one_of(st.none(), turns), st.just(())),
    st.builds(Race, faults),
    st.builds(Overtake, st.integers(0, 3), st.lists(edits, max_size=2).map(tuple), st.booleans()),
    st.builds(Resync),
    st.builds(Tell, st.sampled_from(["running", "paused", "succeeded", "unheard-of"])),
]).flatmap(lambda chosen: chosen)  # fmt: skip
rounds = st.tuples(st.lists(st.one_of(edits, st.builds(w.Reorder, turn=numbers)), max_size=3), actions)
histories = st.tuples(st.integers(0, 7), st.lists(rounds, min_size=1, max_size=12)).map(
    lambda drawn: [w.Publish(drawn[0]), *(step for changes, action in drawn[1] for step in (*changes, action))]
)


class Daemon:
    """A daemon over a wire of its own, in this process: it polls when told."""

    def __init__(self, name: str, store: Store, wire: Wire, http: aiohttp.ClientSession, provider: Provider) -> None:
        self.name = name
        self.store = store
        self.wire = wire
        self._http = http
        self._provider = provider

    async def start(self, source: int, page_size: int) -> None:
        """Start anew, for one source."""
        headers = {"X-Daemon": self.name}
        client = Client(self._http, self._provider.url, headers, {}, Limits(page_size, 5, backoff=0))
        self.service = ActiveSource(source, "test", client, concurrency=8, request_interval=None)
        self._ready, self._ended = asyncio.Event(), asyncio.Event()
        self.life = asyncio.create_task(self._live())
        await self._ready.wait()

    async def _live(self) -> None:
        health = Health()
        queue = SaveQueue(self.store, health)
        async with open_poller(self.store, [self.service], BOUNDS, LEASE, queue, health, 0) as self.poller:
            self._ready.set()
            await self._ended.wait()

    def end(self) -> None:
        """Tell it to stop."""
        self._ended.set()

    async def stop(self) -> None:
        """Stop, and wait for it."""
        self.end()
        await asyncio.wait([self.life])

    async def poll(self) -> int:
        """Tick once, and let what was claimed be saved; a minute has passed since the last time. Returns the claims."""
        poller: Poller = self.poller
        self.service.silent_until = 0
        claimed = await poller.tick()
        if claimed:
            await poller.idle()
            await poller.queue.saved()
        return claimed


@dataclass
class Seen:
    """What the views show of one job, and the version of each row of the tables that quiet polls must not touch."""

    checkpoints: dict[str, asyncpg.Record]
    changes: list[asyncpg.Record]
    polls: list[asyncpg.Record]
    rejects: list[asyncpg.Record]
    freshness: asyncpg.Record
    job: asyncpg.Record
    versions: dict[tuple[str, str], tuple[str, str]]


VERSIONS = """
    with mine as (select j.key from checkpointd.jobs j join checkpointd.sources s on s.key = j.source where s.name = $1)
    select 'checkpoints', id, t.xmin::text, t.ctid::text from checkpointd.checkpoints t join mine on job = key
    union all
    select 'changes', seq::text, t.xmin::text, t.ctid::text from checkpointd.changes t join mine on job = key
    union all
    select 'polls', id::text, t.xmin::text, t.ctid::text from checkpointd.polls t join mine on job = key
    union all
    select 'rejects', convert_from(raw, 'UTF8'), t.xmin::text, t.ctid::text
    from checkpointd.rejects t join mine on job = key
"""


async def look(sql: asyncpg.Connection, source: str) -> Seen:
    """Read the views."""
    freshness = await sql.fetchrow("select * from fine_tuning.freshness where source = $1", source)
    shown = await sql.fetchrow("select status, phase, checkpoint_count from fine_tuning.jobs where source = $1", source)
    assert freshness is not None
    assert shown is not None
    versions = await sql.fetch(VERSIONS, source)
    rows = await sql.fetch("select * from fine_tuning.checkpoints where source = $1", source)
    return Seen(
        {row["id"]: row for row in rows},
        await sql.fetch("select * from fine_tuning.changes where source = $1 order by seq", source),
        await sql.fetch("select * from fine_tuning.polls where source = $1 order by id", source),
        await sql.fetch("select * from fine_tuning.rejects where source = $1", source),
        freshness,
        shown,
        {(table, key): (xmin, ctid) for table, key, xmin, ctid in versions},
    )


def differences(model: Model, told: Told, before: Seen, after: Seen) -> dict[str, tuple[Any, Any]]:
    """Compare what the views show with what may be known: what is looked at → expected, shown, where they differ."""
    shown = {name: _shown(row) for name, row in after.checkpoints.items()}
    fresh = after.freshness
    expected_and_shown = {
        "checkpoints": ({name: (known.values, known.missing) for name, known in model.checkpoints.items()}, shown),
        "changes before": (before.changes, after.changes[: len(before.changes)]),
        "new changes": (
            sorted(told.changes, key=_place),
            sorted(map(_change, after.changes[len(before.changes) :]), key=_place),
        ),
        "polls": (
            [(run.outcome, run.error_class, run.new, run.changed, run.count) for run in model.runs],
            [(row["outcome"], row["error_class"], row["new"], row["changed"], row["count"]) for row in after.polls],
        ),
        "rejects": (sorted(model.rejects), sorted(row["raw"].decode() for row in after.rejects)),
        "job": ((model.status, model.phase, len(model.checkpoints)), tuple(after.job)),
        "failures": ((model.failures, model.error_class), (fresh["consecutive_failures"], fresh["error_class"])),
        "last_error": (model.error_class is None, fresh["last_error"] is None),
        "complete": (told.complete, before.freshness["last_complete_at"] != fresh["last_complete_at"]),
        "success": (told.success, before.freshness["last_success_at"] != fresh["last_success_at"]),
        "change": (
            any(change.kind != "status" for change in told.changes),
            before.freshness["last_change_at"] != fresh["last_change_at"],
        ),
        "rows written": (set(), _written(before, after) - _may_be_written(model, told, after)),
        "rows deleted": (set(), before.versions.keys() - after.versions.keys()),
        "last_changed_at": (
            {c.checkpoint_id for c in told.changes if c.kind in {"changed", "regressed"}},
            {name for name in before.checkpoints if _moved("last_changed_at", name, before, after)},
        ),
        "first_seen_at": (set(), {name for name in before.checkpoints if _moved("first_seen_at", name, before, after)}),
        "missing_since": (
            {c.checkpoint_id for c in told.changes if c.kind in {"missing", "returned"}},
            {name for name in before.checkpoints if _moved("missing_since", name, before, after)},
        ),
    }
    return {name: pair for name, pair in expected_and_shown.items() if pair[0] != pair[1]}


def _shown(row: asyncpg.Record) -> tuple[dict[str, Value], bool]:
    """Return what a row of the view checkpoints says, as the model has it."""
    extra = {f"extra_metrics.{name}": value for name, value in json.loads(row["extra_metrics"] or "{}").items()}
    columns = ("step_number", "fine_tuned_model_checkpoint", "train_loss", "valid_loss", "full_valid_loss")
    said = {name: row[name] for name in columns if row[name] is not None}
    return {**said, "created_at": round(row["created_at"].timestamp()), **extra}, row["missing_since"] is not None


def _change(row: asyncpg.Record) -> Change:
    """Return a row of the view changes as the model has it."""
    old, new = row["old_value"], row["new_value"]
    if row["field"] in {None, "status", "fine_tuned_model_checkpoint"}:
        return Change(row["kind"], row["checkpoint_id"], row["field"], old, new)
    return Change(row["kind"], row["checkpoint_id"], row["field"], _number(old), _number(new))


def _place(change: Change) -> tuple[str, str, str]:
    return change.kind, change.checkpoint_id or "", change.field or ""


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _moved(column: str, name: str, before: Seen, after: Seen) -> bool:
    return name in after.checkpoints and before.checkpoints[name][column] != after.checkpoints[name][column]


def _written(before: Seen, after: Seen) -> set[tuple[str, str]]:
    """Return the rows that were there before and were written since."""
    return {row for row, version in before.versions.items() if after.versions.get(row, version) != version}


def _may_be_written(model: Model, told: Told, after: Seen) -> set[tuple[str, str]]:
    runs = [("polls", str(row["id"])) for run, row in zip(model.runs, after.polls, strict=False) if run is told.run]
    return {
        *runs,
        *(("checkpoints", name) for name in told.written),
        *(("rejects", text) for text in told.rejects),
    }


class History:
    """One history: a job of a source of its own, played by two daemons."""

    def __init__(self, bench: "Bench", number: int) -> None:
        self.bench = bench
        self.source, self.job = f"history-{number}", f"ftjob-{number}"
        self.world, self.model = World(self.job), Model()
        self.a, self.b = bench.daemons
        self._listed: set[str] = set()
        self._seen: Seen

    async def play(self, page_size: int, steps: Sequence[Step]) -> None:
        """Play it; at last two undisturbed polls, after which everything that is listed must be stored."""
        keys = await self.bench.operator.register_sources({self.source: "openai"})
        self._key, self._page_size = keys[self.source], page_size
        await self.bench.operator.track(self._key, [self.job])
        self.bench.provider.checkpoints = {self.job: self.world.answer}
        self.bench.provider.requests.clear()
        self._seen = await look(self.bench.sql, self.source)
        try:
            for daemon in (self.a, self.b):
                await daemon.start(self._key, page_size)
            with capture_logs() as lines:
                for step in steps:
                    note(f"    {step},")
                    await self._do(step)
                await self._end()
            assert [] == [line for line in lines if line["event"].endswith("crashed")]
        finally:
            for daemon in (self.a, self.b):
                daemon.wire.mend()
                await daemon.stop()

    async def _end(self) -> None:
        for at in range(len(self.world.listed)):
            self.world.edit(w.Spoil(at, None))
        api.PAGES, pages = 1000, api.PAGES  # type: ignore[misc]
        try:
            for by in ("A", "B"):
                await self._do(Poll(by), most_pages=1000)
        finally:
            api.PAGES = pages  # type: ignore[misc]
        known = {name: checkpoint.item for name, checkpoint in self.model.checkpoints.items()}
        assert self.world.readable.items() <= known.items()
        assert {name for name, checkpoint in self.model.checkpoints.items() if checkpoint.missing} == (
            known.keys() - self.world.readable.keys()
        )

    async def _do(self, step: Step, most_pages: int = MOST_PAGES) -> None:
        match step:
            case Poll():
                daemon = self._daemon(step.by)
                script = await self._script(daemon, step.faults, step.edits)
                if step.cut is not None:
                    daemon.wire.cut(step.cut)
                claimed = await daemon.poll()
                daemon.wire.mend()
                assert claimed == 1 or step.cut is not None
                if step.cut is not None:
                    await self.bench.idle()
                await self._saved(script, most_pages)
            case Stop():
                await self._stop(step)
            case Race():
                scripts = [await self._script(daemon, step.faults) for daemon in (self.a, self.b)]
                claims = await asyncio.gather(self.a.poll(), self.b.poll())
                polled = [script for script, claimed in zip(scripts, claims, strict=True) if claimed]
                # What is given back is due again at once, and the other one may take it.
                kept = [script for script in polled if not script.is_given_back]
                assert len(kept) <= 1 <= len(polled)
                await self._saved((kept or polled)[0], most_pages)
            case Overtake():
                await self._overtake(step)
            case Resync():
                operator = self.bench.operator
                assert 1 == await operator.resync(await operator.find_jobs([self.job]))
            case Tell():
                self.bench.provider.jobs = page([job(self.job, step.status)])
                before = len(self.model.changes)
                self.model.tell(step.status)
                discovery = JobList(
                    self.bench.operator, self.a.service, Health(), gap=30, lease_seconds=60, discover=False
                )
                await discovery.tick(due_or_not=True)
                await self._compare([(self.model, Told(changes=self.model.changes[before:]))])
            case _:
                self.world.edit(step)

    def _daemon(self, name: str) -> Daemon:
        return self.a if name == "A" else self.b

    async def _script(
        self, daemon: Daemon, faults: tuple[w.Fault, ...] = (), edits: Any = (), hold: int | None = None
    ) -> Script:
        """Let the job be due, leased or not, and make ready what happens during a daemon's next poll."""

        def apply(edit: Edit | Resync) -> Callable[[], Awaitable[None]]:
            async def work() -> None:
                await self._do(edit)
                self._listed &= self.world.readable.keys()

            return work

        script = Script(faults, tuple((before, apply(edit)) for before, edit in edits), hold)
        self.world.scripts[daemon.name] = script
        self._listed = set(self.world.readable)
        self._attempted = self._seen.freshness["last_attempt_at"]
        await self.bench.pass_time(self._key)
        return script

    async def _saved(self, script: Script, most_pages: int, *, perhaps: bool = False) -> None:
        """Compare after a poll that was saved, or `perhaps` was."""
        untouched = copy.deepcopy(self.model) if perhaps else self.model
        told = self.model.poll(script.answers, most_pages)
        outcomes = [(self.model, told)]
        if perhaps:
            outcomes.append((untouched, Told()))
        told = await self._compare(outcomes)
        assert not script.answers or self._attempted != self._seen.freshness["last_attempt_at"]
        if told.complete:
            assert self._listed <= self._seen.checkpoints.keys(), "listed all the time, and not stored"
        self.bench.count(told)

    async def _compare(self, outcomes: Sequence[tuple[Model, Told]]) -> Told:
        """Compare the views with what may have come of a step, and go on with what did."""
        before, self._seen = self._seen, await look(self.bench.sql, self.source)
        found = [differences(model, told, before, self._seen) for model, told in outcomes]
        for (model, told), difference in zip(outcomes, found, strict=True):
            if not difference:
                self.model = model
                return told
        for what, (expected, shown) in found[0].items():
            note(f"{what}:\n  expected {expected}\n  shown    {shown}")
        raise AssertionError(f"the views and the model differ in: {', '.join(found[0])}")

    async def _stop(self, step: Stop) -> None:
        daemon = self._daemon(step.by)
        script = await self._script(daemon, step.faults, hold=step.page)
        poll = asyncio.create_task(daemon.poll())
        if step.page is not None:
            await self._until(script.reached, poll)
        for _ in range(step.after):
            if not poll.done():
                await asyncio.sleep(0)
        poll.cancel()
        await asyncio.wait([poll])
        daemon.end()
        if step.again is not None:
            for _ in range(step.again):
                if not daemon.life.done():
                    await asyncio.sleep(0)
            daemon.life.cancel()
        await asyncio.wait([daemon.life])
        script.go_on.set()
        await self.bench.idle()
        await self._saved(script, MOST_PAGES, perhaps=True)
        await daemon.start(self._key, self._page_size)

    @staticmethod
    async def _until(reached: asyncio.Event, poll: asyncio.Task[int]) -> None:
        """Wait until a page is asked for, or the poll has ended without."""
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait([waiting, poll], return_when="FIRST_COMPLETED")
        waiting.cancel()

    async def _overtake(self, step: Overtake) -> None:
        script = await self._script(self.a, hold=step.page)
        late = asyncio.create_task(self.a.poll())
        await self._until(script.reached, late)
        if late.done():  # the list has no such page
            await self._saved(script, MOST_PAGES)
            return
        for edit in step.edits:
            self.world.edit(edit)
        theirs = await self._script(self.b, hold=0 if step.last else None)
        overtaking = asyncio.create_task(self.b.poll())
        if step.last:
            await theirs.reached.wait()
        else:
            assert 1 == await overtaking
            await self._saved(theirs, MOST_PAGES)
        script.go_on.set()
        await late
        await self._compare([(self.model, Told())])
        if step.last:
            theirs.go_on.set()
            assert 1 == await overtaking
            await self._saved(theirs, MOST_PAGES)


class Bench:
    """What all histories share: a database, a provider, and the daemons' ways to both."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = AsyncExitStack()
        self.counts: Counter[str] = Counter()

    async def open(self) -> None:
        """Open everything."""
        enter = self._stack.enter_async_context
        self.sql = await asyncpg.connect(self._url)
        self._stack.push_async_callback(self.sql.close)
        self.provider = await enter(Provider())
        http = await enter(open_session())
        self.operator = await enter(open_store(functools.partial(connect, self._url)))
        self.daemons = []
        for name in ("A", "B"):
            wire = await enter(Wire(self._url))
            store = await enter(open_store(functools.partial(connect, wire.url)))
            self.daemons.append(Daemon(name, store, wire, http, self.provider))

    async def close(self) -> None:
        """Close everything."""
        await self._stack.aclose()

    async def pass_time(self, source: int) -> None:
        """Let so much time pass that jobs are due, leases have run out, and pauses are over."""
        await self.sql.execute(
            """
            update checkpointd.polling set next_poll_at = clock_timestamp(),
              lease_expires_at = case when lease_expires_at is not null then clock_timestamp() end
            where source = $1""",
            source,
        )
        await self.sql.execute("update checkpointd.sources set resume_at = null where key = $1", source)

    async def idle(self) -> None:
        """Wait until PostgreSQL has done, or undone, what daemons that are gone began, and let go of them."""
        sessions = """
            select array_agg(state) from pg_stat_activity
            where datname = current_database() and application_name = 'checkpointd'"""
        stores = [self.operator, *(daemon.store for daemon in self.daemons)]
        while ["idle"] * sum(s._pool.get_size() for s in stores) != (await self.sql.fetchval(sessions) or []):  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def count(self, told: Told) -> None:
        """Count what came of a poll."""
        self.counts["polls"] += 1
        self.counts["complete"] += told.complete
        self.counts.update(change.kind for change in told.changes)


@pytest.mark.timeout(300 + 10 * HISTORIES)
def test_histories(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After each step of any history the views show what may be known, and no row was written without need."""
    monkeypatch.setattr(api, "PAGES", MOST_PAGES)
    monkeypatch.setattr(outbox, "BATCH_SECONDS", 0)
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(connection, "LOCK_RETRY_DELAYS", (0.01, 0.02, 0.05))
    bench = Bench(url)
    started = itertools.count(1)

    with asyncio.Runner() as runner:
        runner.run(bench.open())

        @settings(
            max_examples=HISTORIES, deadline=None, print_blob=True, report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.reuse, Phase.generate, Phase.shrink),
        )  # fmt: skip
        @given(page_size=st.integers(1, 3), steps=histories)
        def play(page_size: int, steps: list[Step]) -> None:
            history = History(bench, next(started))
            runner.run(history.play(page_size, steps))

        try:
            play()
        finally:
            runner.run(bench.close())
    with capsys.disabled():
        print(f"\n{next(started) - 1} histories:", ", ".join(f"{n} {what}" for what, n in bench.counts.items()))  # noqa: T201
