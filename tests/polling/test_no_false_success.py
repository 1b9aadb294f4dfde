"""No false success: whatever is no complete list alters nothing, is no success, and has a class of its own."""

import json
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres.store import Store
from checkpointd.provider.client import PAGES
from model.reference import OF_SOURCE
from support.harness import polling_one, sync, track
from support.provider import JOB, Provider, body, checkpoint, page, paged
from support.spoilt import FAULTS

ITEMS = [checkpoint(n) for n in range(6, 0, -1)]


async def _stored(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return every row of checkpoint data, with the version that PostgreSQL gives each row it writes."""
    return await sql.fetch("""
        select job::text, id, xmin::text, ctid::text from checkpointd.checkpoints
        union all select job::text, seq::text, xmin::text, ctid::text from checkpointd.changes
        union all select job::text, digest::text, xmin::text, ctid::text from checkpointd.rejects order by 1, 2""")


async def _fresh(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    return await sql.fetch("""
        select fine_tuning_job_id, last_complete_at, last_success_at, last_change_at
        from fine_tuning.freshness order by 1""")


async def _error_class(sql: asyncpg.Connection) -> Any:
    return await sql.fetchval("select error_class from fine_tuning.freshness")


async def _is_told(sql: asyncpg.Connection, error_class: str, *, changed: bool) -> None:
    """Check that three failed polls are told of their job, in one row, or else of their source."""
    row = await sql.fetchrow("select error_class, consecutive_failures from fine_tuning.freshness")
    assert row is not None
    runs = await sql.fetch("select count from fine_tuning.polls where error_class = $1", error_class)
    if error_class in OF_SOURCE:
        state = "refused" if error_class == "refused" else "paused"
        assert state == await sql.fetchval("select state from fine_tuning.sources")
        assert (None, 0) == tuple(row)
        assert [1] * changed == [run["count"] for run in runs]
    else:
        assert (error_class, 3) == tuple(row)
        assert [3] == [run["count"] for run in runs]


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_list(store: Store, provider: Provider, sql: asyncpg.Connection, fault: str) -> None:
    """An answer that is no list writes no row, is no success, and has its class; the next list is complete again."""
    provider.checkpoints[JOB] = good = page(ITEMS[:2])
    await sync(store, provider)
    stored, fresh = await _stored(sql), await _fresh(sql)
    now = await sql.fetchval("select now()")
    assert isinstance(good.body, bytes)
    provider.checkpoints[JOB] = FAULTS[fault].spoil(good.body)
    for _ in range(3):
        await sync(store, provider)
    assert (stored, fresh) == (await _stored(sql), await _fresh(sql))
    assert await sql.fetchval("select last_attempt_at > $1 from fine_tuning.freshness", now)
    await _is_told(sql, FAULTS[fault].error_class, changed=False)
    provider.checkpoints[JOB] = good
    await sync(store, provider)
    assert stored == await _stored(sql)
    assert await sql.fetchval("select last_success_at > $1 from fine_tuning.freshness", fresh[0]["last_success_at"])


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_second_page(store: Store, provider: Provider, sql: asyncpg.Connection, fault: str) -> None:
    """What the first page says is stored though the second fails; the rest of the burst comes with the next listing."""
    listed = list(ITEMS)
    provider.checkpoints[JOB] = paged(listed)
    await sync(store, provider, page_size=3)
    (fresh,) = await _fresh(sql)
    listed[:] = [checkpoint(n) for n in range(13, 6, -1)]  # a burst over three pages; what was known is listed no more
    listed[1] = {**ITEMS[0], "metrics": {"train_loss": 7.5}}
    whole = paged(listed)

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        good = await whole(request)
        if "after" not in request.query:
            return good
        assert isinstance(good.body, bytes)
        answer = FAULTS[fault].spoil(good.body)
        return (await answer(request)) if callable(answer) else answer

    provider.checkpoints[JOB] = breaks_off
    for _ in range(3):
        await sync(store, provider, page_size=3)
    steps = "select array_agg(step_number::int order by step_number) from fine_tuning.checkpoints"
    assert [1, 2, 3, 4, 5, 6, 11, 13] == await sql.fetchval(steps)
    assert 7.5 == await sql.fetchval("select train_loss from fine_tuning.checkpoints where step_number = 6")
    assert await sql.fetchval("select bool_and(missing_since is null) from fine_tuning.checkpoints")
    (after,) = await _fresh(sql)
    assert fresh[1:3] == after[1:3]
    assert after["last_change_at"] > fresh["last_change_at"]
    await _is_told(sql, FAULTS[fault].on_a_later_page, changed=True)
    provider.checkpoints[JOB] = whole
    await sync(store, provider, page_size=3)
    assert [*range(1, 12), 13] == await sql.fetchval(steps)
    assert await _error_class(sql) is None


@pytest.mark.parametrize("has_more", [False, True])
async def test_body_cut_anywhere(store: Store, provider: Provider, sql: asyncpg.Connection, has_more: bool) -> None:
    """A body that ends after any of its bytes, blanks before and behind it, is no success and alters nothing."""
    items = [{"id": "b", "object": "fine_tuning.job.checkpoint"}, {"id": "a", "object": "fine_tuning.job.checkpoint"}]
    whole = b" \r\n" + json.dumps({"object": "list", "data": items, "has_more": has_more}).encode() + b" \n"
    cuts = {f"ftjob-{size}": whole[:size] for size in range(len(whole.rstrip()))}
    for job in cuts:
        provider.checkpoints[job] = page([checkpoint(2, job), checkpoint(1, job)])
    await sync(store, provider, *cuts)
    stored, fresh = await _stored(sql), await _fresh(sql)
    for job, cut in cuts.items():
        provider.checkpoints[job] = body(cut)
    await sync(store, provider, *cuts)
    assert (stored, fresh) == (await _stored(sql), await _fresh(sql))
    classes = dict(map(tuple, await sql.fetch("select fine_tuning_job_id, error_class from fine_tuning.freshness")))
    assert {job: "not_json" if cut.strip() else "empty_body" for job, cut in cuts.items()} == classes


async def test_blanks_behind_a_list_may_be_cut(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Nothing is lost with the blanks behind a list: it is complete."""
    for blanks in ("", " ", " \n"):
        provider.checkpoints[JOB] = body('{"object": "list", "data": [], "has_more": false}' + blanks)
        before = await sql.fetchval("select now()")
        await sync(store, provider)
        assert await sql.fetchval("select last_success_at > $1 from fine_tuning.freshness", before)


async def test_cursor_that_repeats(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A provider that ignores the cursor gives the same page for ever: it is stored once, and the list is not whole."""
    provider.checkpoints[JOB] = page(ITEMS[:2], has_more=True)
    await sync(store, provider)
    assert ("cursor_repeated", 2) == (await _error_class(sql), provider.asked())
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'new'")
    assert await sql.fetchval("select last_complete_at is null from fine_tuning.freshness")


async def test_more_pages_than_the_cap(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A list that does not end within the cap is stored as far as it was read; what lies beyond is not missing."""
    listed = [checkpoint(1)]
    provider.checkpoints[JOB] = paged(listed)
    await sync(store, provider, page_size=1)
    listed[:0] = [checkpoint(n) for n in range(PAGES + 1, 1, -1)]
    for _ in range(3):
        await sync(store, provider, page_size=1)
    assert ("too_many_pages", 1 + 3 * PAGES) == (await _error_class(sql), provider.asked())
    assert PAGES + 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where missing_since is null")
    assert await sql.fetchval("select last_complete_at < last_attempt_at from fine_tuning.freshness")


async def test_pages_smaller_than_asked_for(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Only `has_more` says that a list ends, and no page's length: providers cut pages as they like."""

    async def two_at_most(request: web.Request) -> web.StreamResponse:
        return await paged(ITEMS, default_limit=2)(request.clone(rel_url=request.rel_url.without_query_params("limit")))

    provider.checkpoints[JOB] = two_at_most
    await track(store)
    async with polling_one(store, provider, page_size=100) as (poller, _, _):
        await poller.poll_named(await store.find_jobs([JOB]))
    assert len(ITEMS) == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
