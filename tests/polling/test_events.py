"""The events of a job: every step is stored once, nulls stay nulls, and interrupted passes lose nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.event_list import NEWEST_IDS
from checkpointd.polling import event_reading
from checkpointd.polling import events as module
from checkpointd.polling.events import EventLists
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import event_lists, queries
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from support.harness import open_source, polling_one, sync, tick, track, until, until_true
from support.provider import JOB, Provider, body, checkpoint, error, event, held, page, paged, step_event

STEPS = "select step_number, train_loss, valid_loss, event_id from fine_tuning.steps order by step_number"


@asynccontextmanager
async def reading(
    store: Store, provider: Provider, *, gap: float = 300, lease: float = 60, page_size: int = 100, **settings: Any
) -> AsyncIterator[tuple[EventLists, ActiveSource]]:
    """Open the event lists of the source `test`."""
    async with open_source(store, provider, page_size=page_size, **settings) as source:
        yield EventLists(store, source, Health(), gap=gap, lease_seconds=lease), source


async def read(store: Store, provider: Provider, **settings: Any) -> None:
    """Read the event lists that are due."""
    async with reading(store, provider, **settings) as (events, _):
        await events.tick()


async def make_due(sql: asyncpg.Connection) -> None:
    """Let the time until the next reading pass."""
    await sql.execute("update checkpointd.event_lists set due_at = attempt_at")


async def end(sql: asyncpg.Connection) -> None:
    """Let the job have ended just now."""
    await sql.execute("update checkpointd.polling set settling_since = clock_timestamp()")


async def steps(sql: asyncpg.Connection) -> list[int]:
    """Return the numbers of the stored steps."""
    return [row["step_number"] for row in await sql.fetch(STEPS)]


async def is_complete(sql: asyncpg.Connection) -> bool:
    """Return whether the list was read to its end since the job ended."""
    return bool(await sql.fetchval("select is_complete from fine_tuning.event_lists"))


async def test_steps_and_messages(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Each step and each message of a list becomes a row, once, with nulls for what it does not report."""
    await track(store)
    provider.events[JOB] = page([step_event(3, valid_loss=0.5), event(2, level="warn"), step_event(1)])
    await read(store, provider)
    assert [(1, 1 / 2, None, "ftevent-0001"), (3, 1 / 4, 0.5, "ftevent-0003")] == [
        tuple(row) for row in await sql.fetch(STEPS)
    ]
    row = await sql.fetchrow("select * from fine_tuning.steps where step_number = 1")
    assert ("test", JOB, 1.0, 100, "event") == (
        row["source"], row["fine_tuning_job_id"], row["step"], row["total_steps"], row["origin"],
    )  # fmt: skip
    assert (None, None) == (row["full_valid_loss"], row["extra_metrics"])
    messages = await sql.fetch("select id, level, message from fine_tuning.events")
    assert [("ftevent-0002", "warn", "Message 2")] == [tuple(message) for message in messages]
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 0 == await sql.fetchval("select count(payload) from checkpointd.steps")


async def test_a_quiet_reading_costs_one_request_and_no_row(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list with nothing new is read by one request, and no row of steps or events is written."""
    await track(store)
    provider.events[JOB] = paged([step_event(number) for number in range(50, 0, -1)] + [event(0)])
    await read(store, provider, page_size=10)
    assert 6 == len(provider.event_requests)
    versions = "select xmin, ctid from checkpointd.steps union all select xmin, ctid from checkpointd.events"
    before = await sql.fetch(versions)
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert 7 == len(provider.event_requests)
    assert before == await sql.fetch(versions)
    await read(store, provider, page_size=10)
    assert 7 == len(provider.event_requests), "it was not due"


async def test_a_running_list_is_read_up_to_known_events(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """While a job runs, only the pages with new events are read. The page with a known one is read whole."""
    await track(store)
    listed = [step_event(number) for number in range(50, 0, -1)]
    provider.events[JOB] = paged(listed)
    await read(store, provider, page_size=10)
    provider.event_requests.clear()
    listed[:0] = [step_event(number) for number in range(65, 50, -1)]
    listed.insert(18, event(999))  # of the same second as the known ones before it
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert 2 == len(provider.event_requests)
    assert list(range(1, 66)) == await steps(sql)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.events")


async def test_an_ended_job_is_read_to_the_end_once(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After the end of a job its list is read to the end, due or not, which finds what the list gained in between."""
    await track(store)
    listed = [step_event(number) for number in range(50, 10, -1)]
    provider.events[JOB] = paged(listed)
    await read(store, provider, page_size=10)
    listed.insert(35, step_event(5))
    await end(sql)
    assert not await is_complete(sql)
    await read(store, provider, page_size=10)
    assert await is_complete(sql)
    assert 41 == len(await steps(sql))
    provider.event_requests.clear()
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert 1 == len(provider.event_requests)


@pytest.mark.parametrize("failing", [2, 3, 4])
async def test_an_interrupted_pass_resumes(
    failing: int, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A pass that fails at a page goes on from there, and nothing between the new and the known events is lost."""
    await track(store)
    listed = [step_event(number) for number in range(20, 0, -1)]
    serve = paged(listed)
    provider.events[JOB] = serve
    await read(store, provider, page_size=10)
    listed[:0] = [step_event(number) for number in range(60, 20, -1)]
    requests = 0

    async def fail(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return error(500, x_should_retry="false") if requests == failing else await serve(request)

    provider.events[JOB] = fail
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert list(range(1, 21)) + list(range(71 - 10 * failing, 61)) == await steps(sql)
    listed[:0] = [step_event(number) for number in range(75, 60, -1)]  # they come in between
    provider.event_requests.clear()
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert "after" in provider.event_requests[0].query
    assert list(range(1, 61)) == await steps(sql)
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert list(range(1, 76)) == await steps(sql)


@pytest.mark.parametrize(("failure", "goes_on"), [(error(429), True), (error(500, x_should_retry="false"), False)])
async def test_failures_at_one_cursor(
    failure: web.Response, goes_on: bool, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """After three failures at one cursor a pass starts again, but goes on from there if only the rate is limited."""
    await track(store)
    serve = paged([step_event(number) for number in range(20, 0, -1)])
    provider.events[JOB] = [serve, failure, failure, failure, serve]
    for _ in range(4):
        provider.event_requests.clear()
        await read(store, provider, page_size=10)
        await make_due(sql)
    assert goes_on == ("after" in provider.event_requests[0].query)
    assert list(range(1, 21)) == await steps(sql)


async def test_a_late_pass_goes_on_at_the_next_tick(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that takes half of its lease stops after a page, and goes on at once with a new lease."""
    await track(store)
    provider.events[JOB] = paged([step_event(number) for number in range(50, 0, -1)])
    monkeypatch.setattr(event_reading, "PAGE_SHARE", 0)
    async with reading(store, provider, page_size=10) as (events, _):
        for pages in range(1, 5):
            await events.tick()
            assert 10 * pages == len(await steps(sql))
    await read(store, provider, page_size=10)
    assert list(range(1, 51)) == await steps(sql)


def _held_at(number: int, listed: list[dict[str, Any]]) -> tuple[Any, asyncio.Event]:
    """Return an answer that serves pages of a list until request `number`, which waits, and the event of the latter."""
    serve, requests = paged(list(listed)), iter(range(1, number))
    wait, reached, _ = held(page([]))

    async def answer(request: web.Request) -> web.StreamResponse:
        assert callable(wait)
        return await (serve if next(requests, None) else wait)(request)

    return answer, reached


async def test_kills_lose_nothing(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reading that is cancelled at any page, again and again, and then goes on, has stored every step."""
    monkeypatch.setattr(event_reading, "SAVED_EVENTS", 10)
    await track(store)
    listed = [step_event(number) for number in range(30, 0, -1)]
    for killed_at in range(1, 6):
        listed[:0] = [step_event(number) for number in range(30 * (killed_at + 1), 30 * killed_at, -1)]
        provider.events[JOB], reached = _held_at(killed_at, listed)
        await sql.execute("update checkpointd.event_lists set due_at = attempt_at, lease_expires_at = null")
        task = asyncio.ensure_future(read(store, provider, page_size=10))
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        waiting.cancel()
        await asyncio.wait([task])
    provider.events[JOB] = paged(listed)
    for _ in range(2):
        await make_due(sql)
        await read(store, provider, page_size=10)
    assert list(range(1, 181)) == await steps(sql)


async def test_a_lost_lease_writes_nothing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon that is suspended while another one claims the list saves nothing, and does not end its lease."""
    await track(store)
    provider.events[JOB], reached, go_on = held(page([step_event(1)]))
    task = asyncio.ensure_future(read(store, provider))
    await reached.wait()
    await sql.execute("update checkpointd.event_lists set lease_token = 1")
    go_on.set()
    await task
    assert [] == await steps(sql)
    assert await sql.fetchval("select lease_expires_at is not null from checkpointd.event_lists")


async def test_pages_are_read_while_others_are_saved(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While events are saved, the next ones are read, as many as one save takes."""
    monkeypatch.setattr(event_reading, "SAVED_EVENTS", 10)
    await track(store)
    listed = [step_event(number) for number in range(60, 0, -1)]
    provider.events[JOB], reached, go_on = held(paged(listed))
    task = asyncio.ensure_future(read(store, provider, page_size=5))
    await reached.wait()
    async with sql.transaction():
        await sql.execute("select from checkpointd.event_lists for update")
        go_on.set()
        await until(lambda: len(provider.event_requests) == 4)
        await until_true(sql, "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'")
        assert [] == await steps(sql)
        assert 4 == len(provider.event_requests)
    await task
    assert list(range(1, 61)) == await steps(sql)


async def test_a_save_that_fails_ends_the_reading(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the lease was lost when events were saved, no page is read after those of the next save."""
    monkeypatch.setattr(event_reading, "SAVED_EVENTS", 10)
    await track(store)
    provider.events[JOB], reached, go_on = held(paged([step_event(number) for number in range(60, 0, -1)]))
    task = asyncio.ensure_future(read(store, provider, page_size=5))
    await reached.wait()
    await sql.execute("update checkpointd.event_lists set lease_token = 1")
    go_on.set()
    await task
    assert 4 == len(provider.event_requests)
    assert [] == await steps(sql)


async def test_replicas_share_the_lists(store: Store, provider: Provider) -> None:
    """Of two daemons that look for due lists at the same time, one reads each list."""
    jobs = [f"ftjob-{number}" for number in range(20)]
    await track(store, *jobs)
    for job in jobs:
        provider.events[job] = page([step_event(1)])
    await asyncio.gather(*(read(store, provider) for _ in range(3)))
    assert sorted(jobs) == sorted(request.match_info["job"] for request in provider.event_requests)


async def test_a_claim_is_as_large_as_the_lists_are_quick(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After lists that are read quickly, more are claimed at once; after slow or refused ones, a few."""
    sizes: list[int] = []
    claim = event_lists.claim

    async def counted(store: Store, source: int, slots: int, seconds: float, *, reads_events: bool) -> Any:
        sizes.append(slots)
        return await claim(store, source, slots, seconds, reads_events=reads_events)

    monkeypatch.setattr(event_lists, "claim", counted)
    jobs = [f"ftjob-{number}" for number in range(100)]
    await track(store, *jobs)
    for job in jobs:
        provider.events[job] = page([step_event(1)])
    monkeypatch.setattr(module, "MOST_CLAIMED", 50)
    monkeypatch.setattr(module, "CLAIM_SECONDS", 1000.0)  # any list is quick
    async with reading(store, provider) as (events, _):
        await events.tick()
        assert ([16, 50, 50], len(jobs)) == (sizes, len(provider.event_requests))
        monkeypatch.setattr(module, "CLAIM_SECONDS", 0.0)  # any list is slow
        await make_due(sql)
        await events.tick()
        assert [50, 16, 16, 16, 16] == sizes[3:]
        monkeypatch.setattr(module, "CLAIM_SECONDS", 1000.0)
        provider.events[jobs[30]] = error(429, retry_after="1")
        await make_due(sql)
        await events.tick()
        assert [16, 50] == sizes[8:]
        assert 16 == events._slots


async def test_refusals_starve_no_list(store: Store, provider: Provider) -> None:
    """If the provider refuses requests beyond a few, each list gets its turn: the longest overdue is read first."""
    jobs = [f"ftjob-{number}" for number in range(60)]
    await track(store, *jobs)
    left = 0

    async def serve(_: web.Request) -> web.Response:
        nonlocal left
        left -= 1
        return page([step_event(1)]) if left >= 0 else error(429, retry_after="1")

    for job in jobs:
        provider.events[job] = serve
    async with reading(store, provider, gap=0.001) as (events, _):
        for _ in range(12):
            left, events._silent_until = 10, 0.0
            await events.tick()
    assert set(jobs) == {request.match_info["job"] for request in provider.event_requests}


async def test_an_answer_that_is_not_read_locks_nothing(store: Store, sql: asyncpg.Connection, url: str) -> None:
    """A daemon that is suspended before it reads the answer to its largest claim keeps no list from the others.

    The claim has committed before: its answer fits the buffers of the connection.
    """
    await track(store, *(f"ftjob-{number}" for number in range(module.MOST_CLAIMED)))
    ids = [f"ftevent-{number:036}" for number in range(NEWEST_IDS)]
    await sql.execute(
        """insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, known_ids, pass_ids)
        select job, 0, now(), now(), $1, $1 from checkpointd.polling""",
        ids,
    )
    source = await sql.fetchval("select key from checkpointd.sources")
    suspended = await asyncpg.connect(url)
    claim = await suspended.prepare(queries.CLAIM_EVENT_LISTS)
    suspended._transport.pause_reading()
    claiming = asyncio.ensure_future(claim.fetch(source, module.MOST_CLAIMED, True, 60.0))
    leased = f"select count(lease_expires_at) = {module.MOST_CLAIMED} from checkpointd.event_lists"
    await until_true(sql, leased, seconds=5)
    suspended._transport.resume_reading()
    assert len(await claiming) == module.MOST_CLAIMED
    await suspended.close()


async def test_a_cancelled_reading_gives_all_leases_back(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """Lists that were claimed and not read are due at once for other daemons, where they were before."""
    jobs = [f"ftjob-{number}" for number in range(12)]
    await track(store, *jobs)
    serve, reached, go_on = held(page([step_event(1)]))
    for job in jobs:
        provider.events[job] = serve
    reading_events = asyncio.ensure_future(read(store, provider))
    await reached.wait()
    assert len(jobs) == await sql.fetchval("select count(lease_expires_at) from checkpointd.event_lists")
    reading_events.cancel()
    await asyncio.gather(reading_events, return_exceptions=True)
    assert 0 == await sql.fetchval("select count(lease_expires_at) from checkpointd.event_lists")
    go_on.set()
    await read(store, provider)
    assert len(jobs) == await sql.fetchval("select count(*) from fine_tuning.steps")


async def test_a_repeated_step_shows_the_newest_values(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """If a resumed job repeats a step, its row has the values of the newest event. The older ones are kept once."""
    await track(store)
    listed = [step_event(number, valid_loss=0.1) for number in range(10, 0, -1)]
    provider.events[JOB] = paged(listed)
    await read(store, provider)
    listed[:0] = [step_event(number, step=number - 5) for number in range(15, 10, -1)]
    for _ in range(2):
        await make_due(sql)
        await end(sql)
        await read(store, provider)
        found = {row["step_number"]: row["event_id"] for row in await sql.fetch(STEPS)}
        assert [f"ftevent-{n + 5 * (n > 5):04d}" for n in range(1, 11)] == [found[n] for n in range(1, 11)]
        earlier = "select step_number, event_id, valid_loss from fine_tuning.earlier_steps order by 1"
        assert [(n, f"ftevent-{n:04d}", 0.1) for n in range(6, 11)] == [tuple(row) for row in await sql.fetch(earlier)]
    assert [None] * 5 == [row["valid_loss"] for row in await sql.fetch(STEPS)][5:], "nothing is carried forward"


async def test_a_repeated_step_in_one_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """It makes no difference whether the repetition is read together with the first event, or later."""
    await track(store)
    provider.events[JOB] = page([step_event(20, step=2), step_event(2), step_event(1)])
    await read(store, provider)
    assert ["ftevent-0001", "ftevent-0020"] == [row["event_id"] for row in await sql.fetch(STEPS)]
    assert ["ftevent-0002"] == [row["event_id"] for row in await sql.fetch("table fine_tuning.earlier_steps")]


@pytest.mark.parametrize("times", [{}, {"created_at": 1_721_764_800}])
async def test_repeated_steps_without_different_times(
    times: dict[str, int], store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If times do not say which event of a step is newer, it is the first one of the list, in one pass or later."""
    monkeypatch.setattr(event_reading, "SAVED_EVENTS", 3)
    await track(store)

    def run(number: int) -> list[dict[str, Any]]:
        """Return the events of the steps 6 to 1 that the job trains when it is started for the time `number`."""
        events = [step_event(10 * number + step, step=step) for step in range(6, 0, -1)]
        return [{name: value for name, value in each.items() if name != "created_at"} | times for each in events]

    listed: list[dict[str, Any]] = []
    provider.events[JOB] = paged(listed)
    for newest in (2, 4, 5):
        listed[:0] = run(newest) + (run(newest - 1) if newest < 5 else [])
        if newest == 5:
            await end(sql)
            listed.append(event(1, type="metrics", created_at=None, data={"step": 1}))  # late, not newer
        await make_due(sql)
        await read(store, provider, page_size=3)
        found = [row["event_id"] for row in await sql.fetch(STEPS)]
        assert [f"ftevent-{10 * newest + step:04d}" for step in range(1, 7)] == found
    assert 25 == await sql.fetchval("select count(distinct id) from checkpointd.earlier_steps")


async def test_an_event_that_changes(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If an event gets other values, they are shown and the former are kept. A null overwrites nothing."""
    await track(store)
    for answer in ([step_event(1, valid_loss=0.5)], [step_event(1, valid_loss=None)], [step_event(1, valid_loss=0.4)]):
        provider.events[JOB] = page(answer)
        await read(store, provider)
        if answer[0]["data"]["valid_loss"] is None:
            assert 0.5 == await sql.fetchval("select valid_loss from fine_tuning.steps")
        await sql.execute("update checkpointd.event_lists set due_at = attempt_at")
    assert 0.4 == await sql.fetchval("select valid_loss from fine_tuning.steps")
    assert [0.5] == [row["valid_loss"] for row in await sql.fetch("table fine_tuning.earlier_steps")]


async def test_an_event_that_changes_beside_the_columns(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """If only data without a column changes, the payload has what is new, and the former one is kept."""
    await track(store)
    for accuracy in (0.5, 0.6, 0.6):
        provider.events[JOB] = page([step_event(1, by_grader={"exact": accuracy})])
        await read(store, provider)
        await make_due(sql)
    payload = "select payload->'data'->'by_grader'->>'exact' from checkpointd."
    assert ["0.6"] == [row[0] for row in await sql.fetch(f"{payload}steps")]
    assert ["0.5"] == [row[0] for row in await sql.fetch(f"{payload}earlier_steps")]


async def test_an_event_that_gains_its_time(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The time of an event that was listed without it at first is stored."""
    await track(store)
    for time in (None, 1_721_764_801):
        provider.events[JOB] = page([{**step_event(1), "created_at": time}])
        await read(store, provider)
        assert time == await sql.fetchval("select created_at from checkpointd.steps")
        await make_due(sql)


async def test_unreadable_events_are_rejects(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An event without a usable id or step is a reject with its bytes. One with an odd value is stored without it."""
    await track(store)
    odd = [event(1, id=None), step_event(2, train_loss="low"), event(3, type="metrics", data={"step": "3"}), event(4)]
    provider.events[JOB] = page(odd)
    await read(store, provider)
    rejects = await sql.fetch("select reason, is_stored from fine_tuning.rejects order by reason")
    assert [("data.step: not an integer", False), ("data.train_loss: not a number", True), ("id: missing", False)] == [
        tuple(row) for row in rejects
    ]
    assert [(2, None)] == [(row["step_number"], row["train_loss"]) for row in await sql.fetch(STEPS)]
    assert ["ftevent-0004"] == [row["id"] for row in await sql.fetch("select id from fine_tuning.events")]


async def test_a_value_that_the_database_rejects(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Of a page with an event that the database rejects, the others are stored, and that one is a reject."""
    await sql.execute("alter table checkpointd.events add constraint planted check (message <> 'Message 2')")
    await track(store)
    provider.events[JOB] = page([step_event(4), event(3), event(2), event(1)])
    await read(store, provider)
    assert [4] == await steps(sql)
    assert ["ftevent-0001", "ftevent-0003"] == [
        row["id"] for row in await sql.fetch("select id from fine_tuning.events order by id")
    ]
    assert "CheckViolation" in await sql.fetchval("select reason from fine_tuning.rejects")


async def test_a_repeated_key_is_not_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An event in which the provider repeats the key is a reject without bytes."""
    await track(store)
    provider.events[JOB] = page([event(2, message="the key is canary-key"), event(1)])
    await read(store, provider)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.events")
    assert [("it contains a secret", None)] == [
        (row["reason"], row["raw"]) for row in await sql.fetch("select reason, raw from fine_tuning.rejects")
    ]


async def test_a_repeated_key_in_an_id_is_not_stored(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An id in which the provider repeats the key is no cursor, and not remembered. The pass goes on before it."""
    await track(store)
    listed = [step_event(number) for number in range(40, 0, -1)]
    for position in (0, 19):
        listed[position]["id"] += "-canary-key"
    serve = paged(listed)

    async def fail(request: web.Request) -> web.StreamResponse:
        fails = request.query.get("after") == listed[19]["id"]
        return error(500, x_should_retry="false") if fails else await serve(request)

    provider.events[JOB] = fail
    await read(store, provider, page_size=10)
    assert 18 == len(await steps(sql))
    assert "ftevent-0031" == await sql.fetchval("select cursor from checkpointd.event_lists")
    stored = "select string_agg(row::text, '') from {} as row"
    for table in ("event_lists", "steps", "rejects"):
        assert "canary-key" not in await sql.fetchval(stored.format(f"checkpointd.{table}"))
    provider.events[JOB] = serve
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert 38 == len(await steps(sql))
    assert "canary-key" not in await sql.fetchval(stored.format("checkpointd.event_lists"))


@pytest.mark.parametrize("answer", [page([checkpoint(1)]), body("[]"), body("<html>"), page([], has_more=True)])
async def test_no_false_success(
    answer: web.Response, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """An answer that is no event list is a failure, which the view shows, and no proof of completeness."""
    await track(store)
    await end(sql)
    provider.events[JOB] = answer
    await read(store, provider)
    row = await sql.fetchrow("select is_complete, consecutive_failures, error_class from fine_tuning.event_lists")
    assert (False, 1) == (row["is_complete"], row["consecutive_failures"])
    assert row["error_class"]
    provider.events[JOB] = page([step_event(1)])
    await make_due(sql)
    await read(store, provider)
    row = await sql.fetchrow("select is_complete, consecutive_failures, error_class from fine_tuning.event_lists")
    assert (True, 0, None) == tuple(row)


async def _settle(store: Store, provider: Provider, sql: asyncpg.Connection, polls: int = 4) -> bool:
    """Poll an ended job whose settle time is over. Returns whether it is sealed."""
    async with polling_one(store, provider) as (poller, _, _):
        for _ in range(polls):
            await sql.execute(
                "update checkpointd.polling set next_poll_at = now() - interval '1 s',"
                " settling_since = least(settling_since, now() - interval '2 days')"
            )
            await tick(poller)
            await poller.queue.saved()
    return bool(await sql.fetchval("select sealed_at is not null from checkpointd.polling"))


async def _succeed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider)
    await sql.execute("update checkpointd.jobs set status = 'succeeded'")


async def test_a_job_is_sealed_after_the_complete_pass(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A job whose source's events are read is sealed only when they were read to their end since it ended."""
    await _succeed(store, provider, sql)
    provider.events[JOB] = error(500)
    await read(store, provider)
    assert not await _settle(store, provider, sql)
    provider.events[JOB] = page([step_event(1)])
    await make_due(sql)
    await read(store, provider)
    assert await is_complete(sql)
    assert await _settle(store, provider, sql, 1)
    provider.events[JOB] = page([step_event(2), step_event(1)])
    await read(store, provider)
    assert [1, 2] == await steps(sql), "it is read once more after the job was sealed"
    provider.event_requests.clear()
    await make_due(sql)
    await read(store, provider)
    assert [] == provider.event_requests


async def test_no_event_list_does_not_prevent_sealing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A provider that says twice in a row that it has no event list is asked daily, and the job can be sealed."""
    await _succeed(store, provider, sql)
    for _ in range(2):
        assert not await sql.fetchval("select bool_or(is_given_up) from fine_tuning.event_lists")
        await read(store, provider)
        await make_due(sql)
    assert await sql.fetchval("select is_given_up from fine_tuning.event_lists")
    assert await _settle(store, provider, sql)


async def test_failing_for_a_week_does_not_prevent_sealing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list that could not be read for a week is given up."""
    await _succeed(store, provider, sql)
    provider.events[JOB] = error(500)
    await read(store, provider)
    await sql.execute("update checkpointd.event_lists set failing_since = failing_since - interval '8 days'")
    await make_due(sql)
    await read(store, provider)
    assert await _settle(store, provider, sql)


async def test_only_two_absences_in_a_row_count(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A list is not given up after a 404 before which another failure came, but after two of 404, 405 and 501."""
    await _succeed(store, provider, sql)
    given_up = []
    for answer in (error(500, x_should_retry="false"), error(404), body("<html>"), error(501), error(405)):
        provider.events[JOB] = answer
        await read(store, provider)
        given_up.append(await sql.fetchval("select given_up from checkpointd.event_lists"))
        await make_due(sql)
    assert [False] * 4 + [True] == given_up


@pytest.mark.parametrize("breaks", ["ignores after", "fails at page 2"])
async def test_a_list_that_breaks_after_a_saved_page_is_given_up(
    breaks: str, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list of which only the first page can be read is given up after a week, and is not read after the seal."""
    await _succeed(store, provider, sql)
    first = page([step_event(number) for number in range(20, 10, -1)], has_more=True)

    async def answer(request: web.Request) -> web.StreamResponse:
        fails = breaks == "fails at page 2" and "after" in request.query
        return error(500, x_should_retry="false") if fails else body(first.body or b"")

    provider.events[JOB] = answer
    given_up = []
    for _ in range(8):
        await read(store, provider, page_size=10)
        given_up.append(await sql.fetchval("select given_up from checkpointd.event_lists"))
        await make_due(sql)
        await sql.execute("update checkpointd.event_lists set failing_since = failing_since - interval '1 day'")
    assert [False] * 7 + [True] == given_up
    assert await _settle(store, provider, sql)
    provider.event_requests.clear()
    await read(store, provider, page_size=10)
    assert [] == provider.event_requests


async def test_without_events_jobs_are_sealed(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """With CHECKPOINTD_EVENTS_SECONDS=0 no event is requested, and jobs are sealed as before."""
    await _succeed(store, provider, sql)
    await read(store, provider)
    provider.event_requests.clear()
    await read(store, provider, gap=0)
    assert [] == provider.event_requests
    assert await _settle(store, provider, sql)


async def test_a_throttled_list_delays_no_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 429 for events stops the reading of events for a while, and neither pauses nor blames the source."""
    await track(store)
    provider.events[JOB] = error(429, retry_after="30")
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with reading(store, provider) as (events, source):
        await events.tick()
        await make_due(sql)
        await events.tick()
        assert 1 == len(provider.event_requests)
        assert "ok" == source.attribution.state
    assert "ok" == await sql.fetchval("select state from fine_tuning.sources")
    async with polling_one(store, provider) as (poller, _, _):
        assert 1 == await tick(poller)


async def test_the_rate_limit_is_shared(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Requests for events count against the rate limit, and while polls are due only a tenth of it is for events."""
    await track(store)
    listed: Sequence[Any] = [step_event(number) for number in range(50, 0, -1)]
    provider.events[JOB] = paged(listed)  # type: ignore[arg-type]
    await read(store, provider, page_size=10, request_interval=60)
    assert 1 == len(provider.event_requests), "the second one is due in a minute"
    assert await sql.fetchval("select budget_at > now() - interval '1 s' from checkpointd.sources")
    await sql.execute("update checkpointd.sources set budget_at = '-infinity'")
    await make_due(sql)
    await read(store, provider, page_size=10, request_interval=60)
    assert 1 == len(provider.event_requests), "a poll is due, and a tenth of the limit is used up"
    await sql.execute("update checkpointd.polling set next_poll_at = now() + interval '1 h'")
    await read(store, provider, page_size=10, request_interval=60)
    assert 2 == len(provider.event_requests)
    await sql.execute("update checkpointd.sources set budget_at = '-infinity'")
    for _ in range(4):
        await sql.execute("update checkpointd.sources set budget_at = '-infinity'")
        await read(store, provider, page_size=10, request_interval=60)
    assert list(range(1, 51)) == await steps(sql)


async def test_polls_go_on_while_events_hang(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """While the provider does not answer requests for events, jobs are polled and saved as ever."""
    await track(store)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    provider.events[JOB], reached, go_on = held(page([step_event(1)]))
    reading_events = asyncio.ensure_future(read(store, provider))
    await reached.wait()
    await sync(store, provider)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    go_on.set()
    await reading_events
    assert [1] == await steps(sql)


async def test_only_a_recent_reader_delays_sealing(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If no daemon looked for events within a day, for example because only `sync` is used, jobs are sealed."""
    await _succeed(store, provider, sql)
    provider.events[JOB] = error(500)
    await read(store, provider)
    assert not await _settle(store, provider, sql)
    await sql.execute("update checkpointd.sources set events_looked_at = now() - interval '25 h'")
    assert await _settle(store, provider, sql, 1)


async def test_events_of_an_oldest_first_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A list in another order is read to its end each time, because new events can be anywhere."""
    await track(store)
    listed = [step_event(number) for number in range(1, 31)]
    provider.events[JOB] = paged(listed)
    await read(store, provider, page_size=10)
    listed.append(step_event(31))
    await make_due(sql)
    await read(store, provider, page_size=10)
    assert list(range(1, 32)) == await steps(sql)


async def test_growth_is_bounded(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that invents events at each request fills no more than the limits, and the view shows it."""
    for name in ("MOST_STEPS", "MOST_EARLIER_STEPS", "MOST_MESSAGES"):
        monkeypatch.setattr(f"checkpointd.postgres.event_lists.{name}", 20)
    await track(store)
    for number in range(1, 8):
        items = [step_event(100 * number + n, step=n, loss=number) for n in range(10)]
        items += [step_event(10_000 + 100 * number + n) for n in range(10)]
        provider.events[JOB] = page([*reversed(items), *(event(100 * number + n) for n in range(10, 20))])
        await read(store, provider)
        await make_due(sql)
    row = await sql.fetchrow("select step_count, message_count, left_out_at from fine_tuning.event_lists")
    assert (20, 20) == (row["step_count"], row["message_count"])
    assert row["left_out_at"] is not None
    assert 20 == await sql.fetchval("select count(*) from fine_tuning.earlier_steps")


async def test_what_is_left_out_is_reported(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading that leaves events of repeated steps out reports it, and one that fills the limit does not."""
    monkeypatch.setattr("checkpointd.postgres.event_lists.MOST_EARLIER_STEPS", 5)
    await track(store)
    found = []
    for number in range(1, 5):
        provider.events[JOB] = page([step_event(100 * number + n, step=n) for n in range(5, 0, -1)])
        await read(store, provider)
        found.append(await sql.fetchval("select left_out_at from fine_tuning.event_lists"))
        await make_due(sql)
    assert [None, None] == found[:2]
    assert found[2] < found[3]
