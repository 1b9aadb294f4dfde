"""No false success: a response that is not a complete list changes no row, is no success, and has an error class."""

import json
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.postgres.store import Store
from checkpointd.provider.client import PAGES
from model.reference import SOURCE_FAILURES
from support.harness import polling_one, sync, track
from support.provider import JOB, Provider, body, checkpoint, page, paged
from support.spoilt import FAULTS

ITEMS = [checkpoint(n) for n in range(6, 0, -1)]


async def _row_versions(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the version (xmin, ctid) of each row of checkpoint data."""
    return await sql.fetch("""
        select job::text, id, xmin::text, ctid::text from checkpointd.checkpoints
        union all select job::text, seq::text, xmin::text, ctid::text from checkpointd.changes
        union all select job::text, digest::text, xmin::text, ctid::text from checkpointd.rejects order by 1, 2""")


async def _freshness(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    return await sql.fetch("""
        select fine_tuning_job_id, last_complete_at, last_success_at, last_change_at
        from fine_tuning.freshness order by 1""")


async def _error_class(sql: asyncpg.Connection) -> Any:
    return await sql.fetchval("select error_class from fine_tuning.freshness")


async def _assert_three_failures(sql: asyncpg.Connection, error_class: str, *, changed: bool) -> None:
    """Check that three failed polls are recorded for their job, or else for their source.

    Equal failures have one row. If the first one has changes, it has a row of its own.
    """
    row = await sql.fetchrow("select error_class, consecutive_failures from fine_tuning.freshness")
    assert row is not None
    runs = await sql.fetch("select count from fine_tuning.polls where error_class = $1 order by id", error_class)
    if error_class in SOURCE_FAILURES:
        state = "refused" if error_class == "refused" else "paused"
        assert state == await sql.fetchval("select state from fine_tuning.sources")
        assert (None, 0) == tuple(row)
        assert [1] * changed == [run["count"] for run in runs]
    else:
        assert (error_class, 3) == tuple(row)
        assert ([1, 2] if changed else [3]) == [run["count"] for run in runs]


@pytest.mark.parametrize("fault", FAULTS)
async def test_response_that_is_not_a_list(
    store: Store, provider: Provider, sql: asyncpg.Connection, fault: str
) -> None:
    """A response that is not a list writes no row, is no success, and has its class; the next list is complete."""
    provider.checkpoints[JOB] = good = page(ITEMS[:2])
    await sync(store, provider)
    versions, freshness = await _row_versions(sql), await _freshness(sql)
    now = await sql.fetchval("select now()")
    assert isinstance(good.body, bytes)
    provider.checkpoints[JOB] = FAULTS[fault].spoil(good.body)
    for _ in range(3):
        await sync(store, provider)
    assert (versions, freshness) == (await _row_versions(sql), await _freshness(sql))
    assert await sql.fetchval("select last_attempt_at > $1 from fine_tuning.freshness", now)
    await _assert_three_failures(sql, FAULTS[fault].error_class, changed=False)
    provider.checkpoints[JOB] = good
    await sync(store, provider)
    assert versions == await _row_versions(sql)
    assert await sql.fetchval("select last_success_at > $1 from fine_tuning.freshness", freshness[0]["last_success_at"])


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_second_page(store: Store, provider: Provider, sql: asyncpg.Connection, fault: str) -> None:
    """If the second page fails, what was read is stored; the next complete listing stores the rest of the burst."""
    listed = list(ITEMS)
    provider.checkpoints[JOB] = paged(listed)
    await sync(store, provider, page_size=3)
    (before,) = await _freshness(sql)
    listed[:] = [checkpoint(n) for n in range(13, 6, -1)]  # a burst over three pages; the known ones are not listed
    listed[1] = {**ITEMS[0], "metrics": {"train_loss": 7.5}}
    whole = paged(listed)

    async def fail_on_second_page(request: web.Request) -> web.StreamResponse:
        good = await whole(request)
        if "after" not in request.query:
            return good
        assert isinstance(good.body, bytes)
        answer = FAULTS[fault].spoil(good.body)
        return (await answer(request)) if callable(answer) else answer

    provider.checkpoints[JOB] = fail_on_second_page
    for _ in range(3):
        await sync(store, provider, page_size=3)
    steps = "select array_agg(step_number::int order by step_number) from fine_tuning.checkpoints"
    on_second_page = [8, 9, 10] if FAULTS[fault].has_items else []
    assert [1, 2, 3, 4, 5, 6, *on_second_page, 11, 13] == await sql.fetchval(steps)
    assert 7.5 == await sql.fetchval("select train_loss from fine_tuning.checkpoints where step_number = 6")
    assert await sql.fetchval("select bool_and(missing_since is null) from fine_tuning.checkpoints")
    (after,) = await _freshness(sql)
    complete_and_success = slice(1, 3)
    assert before[complete_and_success] == after[complete_and_success]
    assert after["last_change_at"] > before["last_change_at"]
    await _assert_three_failures(sql, FAULTS[fault].on_a_later_page, changed=True)
    provider.checkpoints[JOB] = whole
    await sync(store, provider, page_size=3)
    assert [*range(1, 12), 13] == await sql.fetchval(steps)
    assert await _error_class(sql) is None


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("has_more", [False, True])
async def test_body_cut_anywhere(store: Store, provider: Provider, sql: asyncpg.Connection, has_more: bool) -> None:
    """A body that is cut after any of its bytes, or in the blanks before it, is no success and changes no row."""
    items = [{"id": "b", "object": "fine_tuning.job.checkpoint"}, {"id": "a", "object": "fine_tuning.job.checkpoint"}]
    whole = b" \r\n" + json.dumps({"object": "list", "data": items, "has_more": has_more}).encode() + b" \n"
    cuts = {f"ftjob-{size}": whole[:size] for size in range(len(whole.rstrip()))}
    for job in cuts:
        provider.checkpoints[job] = page([checkpoint(2, job), checkpoint(1, job)])
    await sync(store, provider, *cuts)
    versions, freshness = await _row_versions(sql), await _freshness(sql)
    for job, cut in cuts.items():
        provider.checkpoints[job] = body(cut)
        await sync(store, provider, job)  # one by one: if several failed together, their source would be failing
    assert (versions, freshness) == (await _row_versions(sql), await _freshness(sql))
    classes = dict(map(tuple, await sql.fetch("select fine_tuning_job_id, error_class from fine_tuning.freshness")))
    assert {job: "not_json" if cut.strip() else "empty_body" for job, cut in cuts.items()} == classes


async def test_blanks_after_a_list_may_be_cut(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A body without the blanks that follow its list is complete."""
    for blanks in ("", " ", " \n"):
        provider.checkpoints[JOB] = body('{"object": "list", "data": [], "has_more": false}' + blanks)
        before = await sql.fetchval("select now()")
        await sync(store, provider)
        assert await sql.fetchval("select last_success_at > $1 from fine_tuning.freshness", before)


async def test_cursor_that_repeats(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the provider ignores the cursor, the page that it repeats is stored once, and the list is incomplete."""
    provider.checkpoints[JOB] = page(ITEMS[:2], has_more=True)
    await sync(store, provider)
    assert ("cursor_repeated", 2) == (await _error_class(sql), provider.asked())
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'new'")
    assert await sql.fetchval("select last_complete_at is null from fine_tuning.freshness")


async def test_more_pages_than_the_limit(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A list with too many pages is stored as far as it was read; checkpoints on the other pages are not missing."""
    listed = [checkpoint(1)]
    provider.checkpoints[JOB] = paged(listed)
    await sync(store, provider, page_size=1)
    listed[:0] = [checkpoint(n) for n in range(PAGES + 1, 1, -1)]
    for _ in range(3):
        await sync(store, provider, page_size=1)
    assert ("too_many_pages", 1 + 3 * PAGES) == (await _error_class(sql), provider.asked())
    assert PAGES + 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where missing_since is null")
    assert await sql.fetchval("select last_complete_at < last_attempt_at from fine_tuning.freshness")


async def test_pages_smaller_than_requested(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Only `has_more` decides whether a list ends: a page may have fewer items than requested."""

    async def two_at_most(request: web.Request) -> web.StreamResponse:
        return await paged(ITEMS, default_limit=2)(request.clone(rel_url=request.rel_url.without_query_params("limit")))

    provider.checkpoints[JOB] = two_at_most
    await track(store)
    async with polling_one(store, provider, page_size=100) as (poller, _, _):
        await poller.poll_named(await store.find_jobs([JOB]))
    assert len(ITEMS) == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
