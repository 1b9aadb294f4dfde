"""Rejects: items that cannot be read are stored and counted, up to a limit, and read again by a newer version."""

import json
from typing import Any

import asyncpg
import pytest

from checkpointd.domain import checkpoint as checkpoint_module
from checkpointd.domain import listing
from checkpointd.domain.reading import BadItemError
from checkpointd.postgres import queries, save_rows
from checkpointd.postgres.store import Store
from support.harness import sync
from support.provider import JOB, Provider, checkpoint, page


def _bad(number: int) -> dict[str, Any]:
    return {**checkpoint(number), "step_number": f"step {number}"}


async def test_seen_again_is_counted(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A reject has its reason, the times of its first and last reading, and the number of compared listings with it."""
    for good in (1, 2, 3):
        provider.checkpoints[JOB] = page([_bad(9), *(checkpoint(n) for n in range(1, good + 1))])
        await sync(store, provider)
    row = await sql.fetchrow("select reason, count, last_seen_at > first_seen_at as later from fine_tuning.rejects")
    assert ("step_number: not an integer", 3, True) == tuple(row or ())


async def test_rejects_of_a_job_are_capped(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejects are stored up to a limit for each job, and further ones of that job are counted in one row."""
    monkeypatch.setattr(save_rows, "MOST_REJECTS", 5)
    kept = "select count from fine_tuning.rejects where fine_tuning_job_id = $1 and raw is not null"
    rest = "select count, reason from fine_tuning.rejects where fine_tuning_job_id = $1 and raw is null"
    for numbers in (range(1, 4), range(2, 10), range(3, 10)):
        provider.checkpoints[JOB] = page([_bad(n) for n in numbers])
        await sync(store, provider)
    assert [1, 2, 2, 2, 3] == sorted(row["count"] for row in await sql.fetch(kept, JOB))
    row = await sql.fetchrow(rest, JOB)
    assert row is not None
    assert 4 + 4 == row["count"]
    assert "too many" in row["reason"]
    provider.checkpoints["ftjob-2"] = page([{**_bad(n), "fine_tuning_job_id": "ftjob-2"} for n in range(1, 6)])
    await sync(store, provider, "ftjob-2")
    assert 5 == len(await sql.fetch(kept, "ftjob-2"))
    assert [] == await sql.fetch(rest, "ftjob-2")


async def test_read_again_by_a_newer_version(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade of the code that reads items, an equal listing is read again, and its items are stored."""

    def refuse(*_: object) -> None:
        raise BadItemError("not understood yet")

    provider.checkpoints[JOB] = page([checkpoint(1)])
    with monkeypatch.context() as old:
        old.setattr(listing, "READER", b"0")
        old.setattr(checkpoint_module, "_read_as_specified", refuse)
        for _ in range(2):
            await sync(store, provider)
    assert (0, 1, 2) == tuple(
        await sql.fetchrow("""select (select count(*) from fine_tuning.checkpoints), count,
        (select quiet_polls from fine_tuning.freshness) from fine_tuning.rejects""")
        or ()
    )
    await sync(store, provider)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert await sql.fetchval("select last_success_at is not null from fine_tuning.freshness")


async def test_rejects_that_can_be_read_are_no_burst(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Checkpoints that were listed before, as rejects, are no burst when they can be read."""
    provider.checkpoints[JOB] = page([*(_bad(n) for n in range(6, 1, -1)), checkpoint(1)])
    await sync(store, provider)
    provider.checkpoints[JOB] = page([checkpoint(n) for n in range(6, 0, -1)])
    await sync(store, provider)
    assert (6, False) == tuple(await sql.fetchrow("select checkpoint_count, suspected_gap from fine_tuning.jobs") or ())


async def test_current_rejects_are_counted(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The page of a job, and each poll, count the rejects of the last listing. The view keeps all rejects."""
    on_page, by_poll = [], []
    for listed in ([_bad(2), checkpoint(1)], [_bad(2), checkpoint(1)], [checkpoint(2), checkpoint(1)]):
        provider.checkpoints[JOB] = page(listed)
        by_poll += [getattr((await sync(store, provider))[JOB], "rejected", None)]
        on_page += [(await sql.fetchrow(queries.READ_JOB, "test", JOB) or {})["rejects"]]
    assert [1, 1, 0] == on_page == by_poll
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.rejects")


async def test_first_bytes_are_kept(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Of a reject that a listing has twice, with other bytes each time, the bytes that were read first are kept."""
    first, second = ({**_bad(9), "metrics": {"train_loss": loss}} for loss in (0.25, 0.75))
    provider.checkpoints[JOB] = page([first, second])
    await sync(store, provider)
    (row,) = await sql.fetch("select raw, count from fine_tuning.rejects")
    assert (json.dumps(first).encode(), 1) == tuple(row)
