"""One daemon and ten simulated sources of all kinds, each of which fails in each way while the others work."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import asyncpg
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from checkpointd.postgres.store import Store
from checkpointd.provider.formats.format import Paging
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.simulator import foundry, tinker, together
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import serve_application, world_application
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from service.faults.daemons import daemon, daemon_env, measure_stalls, queued_seconds
from service.faults.hostile_answers import PAGES
from support.harness import until_true
from support.provider import Answer, error
from support.verbs import get

GAP: Final = 0.5
TIMEOUT: Final = 2.0
"""The poll gap and the request timeout of the daemon, in seconds."""

LONGEST_GAP: Final = TIMEOUT + 2 * GAP
"""A healthy job waits for one request timeout and one poll gap at most, after the poll gap that it waits anyway."""

SETTINGS: Final = {
    "MIN_POLL_SECONDS": GAP,
    "MAX_POLL_SECONDS": GAP,
    "REQUEST_TIMEOUT_SECONDS": TIMEOUT,
    "LEASE_SECONDS": 60,
    "PAGE_SIZE": 3,  # lists have several pages
    "SETTLE_SECONDS": 31_536_000,  # no job is sealed
    "EVENTS_SECONDS": 0,
}
NOW: Final = EPOCH + 86_400
"""The time in the simulated worlds, which stands still: all jobs have ended."""


class Way(NamedTuple):
    """A way in which a source fails: what it answers, and what the views then say."""

    answer: Callable[[], Answer]
    error_class: str | None
    """The class of the failure of a job, or None if no job is blamed."""
    state: str = "failing"
    """The state of the source, if it is known that the source fails and not the job."""
    later_pages_only: bool = False
    """True if the first page is good."""
    paging: Collection[Paging] = get_args(Paging)
    """How the pages of a source that can fail so follow each other."""


def _empty(**members: object) -> Callable[[], Answer]:
    """Return a function that returns an empty list in each format, with these further members."""
    return lambda: web.json_response({"data": [], "checkpoints": [], "training_runs": [], **members})


WAYS: Final[Mapping[str, Way]] = {
    "connection closed": Way(lambda: PAGES["closed without an answer"](b""), "network"),
    "no answer in time": Way(lambda: PAGES["too late"](b""), "timeout"),
    "503 in HTML": Way(lambda: PAGES["503 in HTML"](b""), "server_error"),
    "throttled": Way(lambda: error(429, "rate_limit_exceeded", Retry_After="60"), None, "paused"),
    "no quota": Way(lambda: error(429, "insufficient_quota", Retry_After="60"), None, "paused"),
    "key refused": Way(lambda: error(401, "invalid_api_key"), None, "refused"),
    "forbidden": Way(lambda: PAGES["403"](b""), "forbidden"),
    "unknown job": Way(lambda: PAGES["404"](b""), "missing"),
    "cursor lost": Way(lambda: error(400), "cursor_lost", later_pages_only=True, paging=("after", "after_empty")),
    "bad request": Way(lambda: error(400), "bad_request"),
    "redirect": Way(lambda: PAGES["302"](b""), "redirect"),
    "HTML": Way(lambda: PAGES["HTML"](b""), "content_type"),
    "error with status 200": Way(lambda: PAGES["error with status 200"](b""), "error_in_200"),
    "object without the list": Way(lambda: web.json_response({"object": "list", "has_more": False}), "not_a_list"),
    # Nebius may leave has_more out, or send null. A list of one page has none, and must not say that another follows.
    "has_more missing": Way(_empty(), "bad_has_more", paging=("after",)),
    "has_more null": Way(_empty(has_more=None), "bad_has_more", paging=("after",)),
    "has_more a text": Way(_empty(has_more="no"), "bad_has_more", paging=("after", "after_empty", "whole")),
    "cursor without numbers": Way(_empty(cursor={}), "bad_has_more", paging=("whole_or_offset",)),
    "cursor of another page": Way(
        _empty(cursor={"offset": 3, "limit": 3, "total_count": 3}), "bad_has_more", paging=("whole_or_offset",)
    ),
}
"""The rows of the table of error classes, and the forms of a 200 that is no list, or a list whose end is unknown."""

STANDING = """
select sources.name, sources.state, freshness.jobs, freshness.error_classes, freshness.is_blamed,
  freshness.last_success_at
from fine_tuning.sources
cross join lateral (
  select count(*) as jobs, array_remove(array_agg(f.error_class), null) as error_classes,
    bool_or(f.consecutive_failures > 0) as is_blamed, min(f.last_success_at) as last_success_at
  from fine_tuning.freshness f where f.source = sources.name
) as freshness
"""
"""For each source its state, the failures of its jobs, and when the last of them was read successfully."""

Standing = Mapping[str, asyncpg.Record]
"""The rows of STANDING by source."""

CONTENT = "select * from fine_tuning.checkpoints order by source, fine_tuning_job_id, id"


class Simulated:
    """A simulated source that fails in a way when a test sets it, and notes when each job is polled."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.kind = name, kind
        self.world = World(7, 2, EPOCH, Shape(kind, retention="all"))
        self.jobs = [job["id"] for job in self.world.jobs(NOW)]
        self.way: Way | None = None
        self.healed_at: Any = None
        """The time of the database since which the source has worked again, until it has recovered; else None."""
        self.polled: dict[str, tuple[float, float]] = {}
        """When each job was last polled, and how long the machine had stood still until then."""
        self.late: Callable[[], float] = lambda: 0.0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve the world. Yields the base URL."""
        application = world_application(self.world, lambda: NOW)
        application.middlewares.insert(0, self._answer)
        async with serve_application(self.kind, application, "127.0.0.1", 0) as url:
            yield url

    def can_fail(self, way: Way) -> bool:
        """Return whether the kind knows the way: without a cursor none is lost."""
        return PRESETS[self.kind].format.checkpoints.paging in way.paging

    def since_polled(self) -> float:
        """Return for how many seconds the job that was polled longest ago has waited, without what the machine took."""
        now = time.monotonic() - self.late()
        return max(now - at + late for at, late in self.polled.values())

    def measure_anew(self) -> None:
        """Begin to measure anew how long the jobs wait."""
        self.polled = dict.fromkeys(self.jobs, (time.monotonic(), self.late()))

    def checkpoint_ids(self) -> set[tuple[str, str]]:
        """Return the job and the id of all checkpoints that the source lists."""
        return {
            (job, found)
            for job in self.jobs
            for record in self.world.checkpoints(job, NOW)
            for found in _ids(self.kind, record, self.world.job(job, NOW))
        }

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_first = not request.query.keys() & {"after", "offset"}
        if request.path.endswith("/checkpoints") and is_first:
            self.polled[request.path.split("/")[-2]] = time.monotonic(), self.late()
        if self.way is None or (is_first and self.way.later_pages_only):
            return await handler(request)
        answer = self.way.answer()
        return answer if isinstance(answer, web.StreamResponse) else await answer(request)


def _ids(kind: Kind, record: dict[str, Any], job: dict[str, Any]) -> list[str]:
    if kind == "together":
        return [item["path"] for item in together.checkpoints(record, job)]
    if kind in {"tinker", "foundry"}:
        return [item["checkpoint_id"] for item in (tinker if kind == "tinker" else foundry).checkpoints(record)]
    return [record["id"]]


class Observer:
    """Compares what the views say of all sources with which of them fail."""

    def __init__(self, sql: asyncpg.Connection, store: Store, sources: Sequence[Simulated]) -> None:
        self.sql, self.store, self.sources = sql, store, sources
        self.longest_gap = 0.0

    async def until(self, holds: Callable[[Standing], bool], what: str) -> Standing:
        """Wait until something holds, and return what does. Until then no source that works waits or is blamed."""
        standing = await self._look()
        try:
            async with asyncio.timeout(60):
                while not holds(standing):
                    await asyncio.sleep(0.05)  # between two looks
                    standing = await self._look()
        except TimeoutError:
            states = {name: (row["state"], row["error_classes"]) for name, row in standing.items()}
            raise AssertionError(f"{what}: {states}") from None
        return standing

    async def until_others_were_polled(self, what: str) -> None:
        """Wait until each job of the sources that work has been polled since now."""
        now = time.monotonic()
        working = [source for source in self.sources if source.way is None and source.healed_at is None]
        await self.until(lambda _: all(at > now for source in working for at, _ in source.polled.values()), what)

    async def _look(self) -> Standing:
        rows = {row["name"]: row for row in await self.sql.fetch(STANDING)}
        for source in self.sources:
            row = rows[source.name]
            if source.healed_at and _is_well(row) and row["last_success_at"] > source.healed_at:
                source.healed_at = None
                source.measure_anew()
            if source.healed_at:
                await self._hurry(source)
            elif source.way is None:
                self.longest_gap = max(self.longest_gap, source.since_polled())
                assert _is_well(row), f"{source.name}: {dict(row)}"
                assert LONGEST_GAP > source.since_polled(), source.name
        return rows

    async def heal(self, source: Simulated) -> None:
        """Let a source work again, and end its pause."""
        source.way = None
        key = await self.sql.fetchval("select key from checkpointd.sources where name = $1", source.name)
        source.healed_at = await self.sql.fetchval("select clock_timestamp()")
        await self.store.resume_sources([key])

    async def _hurry(self, source: Simulated) -> None:
        """Let the jobs be polled at once, which would wait because they have failed."""
        await self.sql.execute(
            """
            update checkpointd.polling set next_poll_at = now() from checkpointd.jobs, checkpointd.sources
            where jobs.key = polling.job and sources.key = jobs.source and sources.name = $1
            and lease_expires_at is null and next_poll_at > now() + $2 * interval '1 s'""",
            source.name,
            GAP,
        )


def _is_well(row: asyncpg.Record) -> bool:
    return row["state"] == "ok" and not row["error_classes"] and not row["is_blamed"]


def _fails(row: asyncpg.Record, way: Way) -> bool:
    """Return whether the views show that a source fails in this way: by a job, or by a state that blames no job."""
    return way.error_class in row["error_classes"] or bool(row["state"] == way.state)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_sources(url: str, store: Store, sql: asyncpg.Connection, tmp_path: Path, port: int) -> None:
    """A source that fails, in whatever way, delays no job of another source, blames none, and changes no value.

    When it works again, its jobs are read again. The status page shows all sources. Jobs of two sources with the same
    id are two jobs.
    """
    sources = [Simulated(f"{kind}-{number}", kind) for number, kind in enumerate(islice(cycle(KINDS), 10))]
    toml = ""
    async with AsyncExitStack() as stack:
        for source in sources:
            api = await stack.enter_async_context(source.serve())
            toml += f"""
                [[sources]]
                name = "{source.name}"
                kind = "{source.kind}"
                base_url = "{api}"
                api_key = "OPENAI_API_KEY"
                """
        (tmp_path / "checkpointd.toml").write_text(toml)
        keys = await store.register_sources({source.name: source.kind for source in sources})
        for source in sources:
            await store.track(keys[source.name], source.jobs)
        settings = {**SETTINGS, "HTTP_PORT": port, "CONFIG": tmp_path / "checkpointd.toml"}
        env = daemon_env(tmp_path, url, "", **{f"CHECKPOINTD_{name}": str(value) for name, value in settings.items()})
        one = await stack.enter_async_context(daemon(env))
        stalled = await stack.enter_async_context(measure_stalls())
        await until_true(sql, "select bool_and(last_success_at is not null) from fine_tuning.freshness")
        with_records = [source.name for source in sources if KINDS[source.kind].lists_jobs]
        await until_true(
            sql, "select bool_and(model is not null) from fine_tuning.jobs where source = any ($1)", with_records
        )
        expected = {(source.name, *found) for source in sources for found in source.checkpoint_ids()}
        content = await sql.fetch(CONTENT)
        assert expected == {(row["source"], row["fine_tuning_job_id"], row["id"]) for row in content}
        assert sources[0].jobs == sources[len(KINDS)].jobs  # so the same ids are other jobs in each source
        last_change = await sql.fetchval("select max(seq) from fine_tuning.changes")
        for source in sources:
            source.late = lambda: stalled() + queued_seconds(one.process.pid)
            source.measure_anew()
        observer = Observer(sql, store, sources)
        for name, way in WAYS.items():
            for source in sources:
                if not source.can_fail(way):
                    continue
                source.way = way
                standing = await observer.until(lambda rows: _fails(rows[source.name], way), f"{source.name}: {name}")  # noqa: B023
                assert way.error_class or not standing[source.name]["is_blamed"]
                await observer.until_others_were_polled(f"others: {source.name}: {name}")
                await observer.heal(source)
            status, page = await get(port, "/")
            assert (200, []) == (status, [source.name for source in sources if source.name not in page])
            await observer.until(lambda _: not any(source.healed_at for source in sources), f"recovery: {name}")
        assert [] == [pair for pair in zip(content, await sql.fetch(CONTENT), strict=True) if pair[0] != pair[1]]
        changes = "select * from fine_tuning.changes where seq > $1 and kind not in ('fired', 'resolved')"
        assert [] == await sql.fetch(changes, last_change)
        assert one.process.returncode is None
    print(f"longest gap of a healthy job {observer.longest_gap:.2f} s")  # noqa: T201
