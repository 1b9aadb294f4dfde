"""Listings with the same content are equal, whatever their bytes: nothing is written, and an ended job is sealed."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.poll import SavedPoll
from checkpointd.postgres.store import Store
from support.harness import CADENCE, polling_one, read_job_list, row_versions, sync, tick, track
from support.provider import JOB, Answer, Provider, body, checkpoint, job, page, paged

Item = dict[str, Any]

ITEMS = [checkpoint(number, valid_loss=0.6, train_mean_reward=0.25) for number in (3, 2, 1)]


def listed(texts: list[str]) -> web.Response:
    """Return a page with these items as JSON text."""
    return body('{"object": "list", "data": [' + ", ".join(texts) + '], "has_more": false}')


def _reversed_members(turn: int) -> web.Response:
    items = [{**item, "metrics": dict(list(item["metrics"].items())[:: 1 if turn % 2 else -1])} for item in ITEMS]
    return page([dict(list(item.items())[:: 1 if turn % 3 else -1]) for item in items])


def _other_order(turn: int) -> web.Response:
    return page(ITEMS[turn % 3 :] + ITEMS[: turn % 3])


def _signed_url(turn: int) -> web.Response:
    return page([{**item, "download_url": f"https://host/{item['id']}?sig={turn}&exp={turn * 60}"} for item in ITEMS])


def _request_id_in_the_metrics(turn: int) -> web.Response:
    return page([{**item, "metrics": {**item["metrics"], "evaluated_by": f"worker-{turn}"}} for item in ITEMS])


def _other_encoding(turn: int) -> web.Response:
    texts = [json.dumps(item, indent=turn % 3, separators=(",", ":" + " " * (turn % 2))) for item in ITEMS]
    return listed([text.replace("ftckpt", "\\u0066tckpt") if turn % 2 else text for text in texts])


def _other_numbers(turn: int) -> web.Response:
    texts = [json.dumps(item) for item in ITEMS]
    return listed(
        [text.replace("0.25", "2.5e-1").replace('"step": 3', '"step": 3.0') if turn % 2 else text for text in texts]
    )


def _null_or_absent(turn: int) -> web.Response:
    return page(
        [{**item, "metrics": item["metrics"] | ({"full_valid_loss": None} if turn % 2 else {})} for item in ITEMS]
    )


def _listed_twice(turn: int) -> web.Response:
    return page([*ITEMS, *ITEMS[: turn % 2]])


def _all_at_once(turn: int) -> web.Response:
    shuffled = random.Random(turn).sample(ITEMS, len(ITEMS))  # no secret
    return page([{**dict(reversed(item.items())), "served_at": turn} for item in shuffled])


EQUAL: list[Callable[[int], web.Response]] = [
    _reversed_members,
    _other_order,
    _signed_url,
    _request_id_in_the_metrics,
    _other_encoding,
    _other_numbers,
    _null_or_absent,
    _listed_twice,
    _all_at_once,
]


def turns(answer: Callable[[int], web.Response]) -> Answer:
    """Return an answer that is another one at each request."""
    numbers: Iterator[int] = count(1)

    async def answer_next(_: web.Request) -> web.StreamResponse:
        return answer(next(numbers))

    return answer_next


async def hours_pass(sql: asyncpg.Connection, hours: float) -> None:
    """Let so many hours pass for all jobs."""
    await sql.execute(
        """update checkpointd.polling set next_poll_at = next_poll_at - $1, last_attempt_at = last_attempt_at - $1,
        settling_since = settling_since - $1""".replace("$1", f"interval '{hours} h'")
    )


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("answer", EQUAL, ids=lambda answer: answer.__name__.strip("_"))
async def test_ended_job_with_equal_content_is_sealed(
    store: Store, provider: Provider, sql: asyncpg.Connection, answer: Callable[[int], web.Response]
) -> None:
    """An ended job whose answers have other bytes at each request is sealed, and none of its rows is written again."""
    provider.checkpoints[JOB] = turns(answer)
    provider.jobs = page([job(status="succeeded")])
    await track(store)
    await read_job_list(store, provider)
    await sync(store, provider)
    before = await row_versions(sql)
    polls = 0
    async with polling_one(store, provider) as (poller, _, outcomes):
        await hours_pass(sql, CADENCE.settle / 3600 / 4)
        while polls < 20 and await tick(poller):
            await poller.queue.saved()
            outcome = outcomes[JOB]
            assert isinstance(outcome, SavedPoll)
            polls += 1
            assert outcome.result.quiet
            await hours_pass(sql, CADENCE.settle / 3600 / 4)
    assert "sealed" == await sql.fetchval("select phase from fine_tuning.jobs")
    assert 5 <= polls <= 9
    assert before == await row_versions(sql)
    assert polls == await sql.fetchval("select quiet_polls from fine_tuning.freshness")


async def test_other_pages_are_equal(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The same checkpoints in another order, over pages that are cut elsewhere, are equal."""
    items = [checkpoint(number) for number in range(1, 12)]
    provider.checkpoints[JOB] = paged(items)
    await sync(store, provider, page_size=4)
    before = await row_versions(sql)
    for page_size in (3, 5, 11, 2):
        random.Random(page_size).shuffle(items)  # no secret
        outcomes = await sync(store, provider, page_size=page_size)
        assert isinstance(outcome := outcomes[JOB], SavedPoll)
        assert outcome.result.quiet
    assert before == await row_versions(sql)


async def test_changed_value_among_other_bytes_is_stored(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A value that changes while the order and a hidden field change, too, writes its row and no other."""
    provider.checkpoints[JOB] = _all_at_once(1)
    await sync(store, provider)
    before = dict(await sql.fetch("select id, ctid::text || xmin::text from checkpointd.checkpoints"))
    late = [{**item, "metrics": {**item["metrics"], "full_valid_loss": 0.5}} for item in ITEMS[:1]]
    provider.checkpoints[JOB] = page([*reversed(ITEMS[1:]), {**late[0], "served_at": 7}])
    await sync(store, provider)
    after = dict(await sql.fetch("select id, ctid::text || xmin::text from checkpointd.checkpoints"))
    assert {ITEMS[0]["id"]} == {name for name, version in after.items() if before[name] != version}
    assert 0.5 == await sql.fetchval("select full_valid_loss from fine_tuning.checkpoints where step_number = 3")


async def test_null_among_other_bytes_regresses_once(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A value, null and the value again are one `regressed` and one `changed`, although the bytes differ each time."""
    gone = [{**item, "metrics": {**item["metrics"], "valid_loss": None}} for item in ITEMS]
    for turn, items in enumerate((ITEMS, ITEMS, gone, gone, gone, ITEMS, ITEMS)):
        provider.checkpoints[JOB] = page([{**item, "served_at": turn} for item in items])
        await sync(store, provider)
    kinds = await sql.fetch("select kind, count(*) from fine_tuning.changes group by 1 order by 1")
    assert [("changed", 3), ("new", 3), ("regressed", 3)] == [tuple(row) for row in kinds]


async def test_reject_with_other_bytes_is_equal(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An item that cannot be read, for the same reason and with the same id, is equal, whatever its other bytes."""
    for turn in range(4):
        bad = {**checkpoint(9), "step_number": "nine", "download_url": f"https://host/?sig={turn}"}
        provider.checkpoints[JOB] = page([*ITEMS, bad])
        await sync(store, provider)
    assert [1] == [row["count"] for row in await sql.fetch("select count from fine_tuning.rejects")]
    assert 3 == await sql.fetchval("select quiet_polls from fine_tuning.freshness")


async def test_resync_compares_equal_content(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """After a resync a listing with the same content is compared in full, which corrects a wrong stored value."""
    provider.checkpoints[JOB] = page(ITEMS)
    await sync(store, provider)
    await sql.execute("update checkpointd.checkpoints set valid_loss = 9")
    provider.checkpoints[JOB] = page(ITEMS[::-1])
    await sync(store, provider)
    assert 9 == await sql.fetchval("select min(valid_loss) from fine_tuning.checkpoints")
    await store.resync(await store.find_jobs([JOB]))
    await sync(store, provider)
    assert 0.6 == await sql.fetchval("select max(valid_loss) from fine_tuning.checkpoints")


async def test_absence_is_counted_among_other_bytes(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A checkpoint is missing after two listings without it, even if the second only differs in its order."""
    for items in (ITEMS, ITEMS[1:], ITEMS[:0:-1]):
        provider.checkpoints[JOB] = page(items)
        await sync(store, provider)
    assert [3] == await sql.fetchval(
        "select array_agg(step_number) from fine_tuning.checkpoints where missing_since is not null"
    )


async def test_upgrade_compares_once(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job of an older version, which has no content digest yet, is compared in full once, and then quiet."""
    provider.checkpoints[JOB] = page(ITEMS)
    await sync(store, provider)
    await sql.execute("update checkpointd.polling set content_digest = null, digest = sha256('of another version')")
    quiet = []
    for _ in range(2):
        outcome = (await sync(store, provider))[JOB]
        assert isinstance(outcome, SavedPoll)
        quiet.append(outcome.result.quiet)
    assert [False, True] == quiet
