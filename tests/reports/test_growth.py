"""A list that never stabilises makes no rows without limit. It is reported, and real news are still stored."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from checkpointd.domain import growth
from checkpointd.domain.growth import RECOVERY_LISTINGS, UNSTABLE_POINTS, UNSTEADY_POINTS
from checkpointd.postgres import comparison
from checkpointd.postgres.store import Store
from checkpointd.telemetry import database_metrics, metrics
from checkpointd.telemetry.health import Health
from support.harness import polling_one, read_job_list, sync, tick, track
from support.provider import JOB, Provider, checkpoint, job, page
from support.verbs import checkpointd, environment

Items = list[dict[str, Any]]
Listing = Callable[[int], Items]
"""The items of the listing of a turn."""

ROWS = """select sum(n)::int from (select count(*) as n from checkpointd.checkpoints
  union all select count(*) from checkpointd.changes union all select count(*) from checkpointd.polls) as counts"""
UNSTABLE = "select unstable_since is not null from fine_tuning.jobs"
STEPS = "select array_agg(distinct step_number order by step_number) from fine_tuning.checkpoints"
DETECTED = 5
"""Unsteady listings in a row after which a job is unstable."""


def renamed(turn: object, *steps: int, **fields: Any) -> Items:
    """Return checkpoints of these steps whose ids depend on the turn."""
    return [{**checkpoint(step), "id": f"ftckpt_{step}_{turn}", **fields} for step in steps]


def _new_ids(turn: int) -> Items:
    return renamed(turn, 20, 10)


def _one_new_id_more(turn: int) -> Items:
    return [item for number in range(turn, 0, -1) for item in renamed(number, 10)][:20]


def _two_sets_of_ids(turn: int) -> Items:
    return renamed(turn % 2, 20, 10)


def _two_sets_of_ids_in_pairs(turn: int) -> Items:
    return renamed(turn // 2 % 2, 20, 10)


def _new_times(turn: int) -> Items:
    return [{**checkpoint(step), "created_at": 1_721_764_800 + 7 * turn} for step in (20, 10)]


def _new_ids_and_times(turn: int) -> Items:
    return renamed(turn, 20, 10, created_at=1_721_764_800 + turn)


def _random_models(turn: int) -> Items:
    return [{**checkpoint(step), "fine_tuned_model_checkpoint": f"ft:m:{turn}:{step}"} for step in (20, 10)]


def _random_models_and_ids(turn: int) -> Items:
    return renamed(turn, 20, 10, fine_tuned_model_checkpoint=f"ft:m:{turn}")


def _flapping_metric(turn: int) -> Items:
    return [checkpoint(20), checkpoint(10, valid_loss=0.5 + turn % 2)]


def _flapping_null(turn: int) -> Items:
    return [checkpoint(20), checkpoint(10, valid_loss=0.5 if turn % 2 else None)]


def _flapping_in_pairs(turn: int) -> Items:
    return [checkpoint(20), checkpoint(10, valid_loss=0.5 + turn // 2 % 2)]


def _slowly_flapping(turn: int) -> Items:
    return [checkpoint(20), checkpoint(10, valid_loss=0.5 + turn // 6 % 2)]


def _noise(turn: int) -> Items:
    return [checkpoint(20, valid_loss=0.5 + 1e-9 * turn), checkpoint(10)]


def _random_metric_names(turn: int) -> Items:
    return [checkpoint(20, **{f"eval_{turn}": 0.5}), checkpoint(10)]


def _random_steps(turn: int) -> Items:
    return renamed(turn, *(random.Random(turn).randrange(1, 10**6) for _ in range(2)))


def _moving_steps(turn: int) -> Items:
    return [{**checkpoint(20), "step_number": 20 - turn % 3}, checkpoint(10)]


def _new_ids_and_a_new_step(turn: int) -> Items:
    return renamed(turn, *range(turn + 1, 0, -1))


def _sometimes_empty(turn: int) -> Items:
    return renamed(0, 20, 10) if turn % 2 else []


def _sometimes_empty_in_pairs(turn: int) -> Items:
    return renamed(0, 20, 10) if turn // 2 % 2 else []


NEVER_STABLE: list[Listing] = [
    _new_ids,
    _one_new_id_more,
    _two_sets_of_ids,
    _two_sets_of_ids_in_pairs,
    _new_times,
    _new_ids_and_times,
    _random_models,
    _random_models_and_ids,
    _flapping_metric,
    _flapping_null,
    _flapping_in_pairs,
    _slowly_flapping,
    _noise,
    _moving_steps,
    _sometimes_empty,
    _sometimes_empty_in_pairs,
]


def name(listing: Listing) -> str:
    """Return the name of a listing, for the name of its test."""
    return listing.__name__.strip("_")


async def _hour_passes(sql: asyncpg.Connection) -> None:
    await sql.execute(
        """update checkpointd.polling set next_poll_at = next_poll_at - interval '1 h',
        last_attempt_at = last_attempt_at - interval '1 h', settling_since = settling_since - interval '1 h'"""
    )


async def play(
    store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing, turns: Sequence[int]
) -> list[int]:
    """Poll the job once an hour while it is due, with one listing for each turn. Returns the rows after each poll."""
    await track(store)
    rows = []
    async with polling_one(store, provider) as (poller, _, _):
        for turn in turns:
            provider.checkpoints[JOB] = page(listing(turn))
            await _hour_passes(sql)
            if not await tick(poller):
                break
            await poller.queue.saved()
            rows.append(await sql.fetchval(ROWS))
    return rows


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("listing", NEVER_STABLE, ids=name)
async def test_rows_do_not_grow_for_ever(
    store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing
) -> None:
    """After 40 polls of a list that never stabilises no row is added any more, and the job is reported as unstable."""
    with capture_logs() as logged:
        rows = await play(store, provider, sql, listing, range(1, 81))
    assert 80 == len(rows)
    assert rows[40] == rows[-1]
    assert await sql.fetchval(UNSTABLE)
    assert [JOB] == [line["job"] for line in logged if line["event"] == "poll.unstable"]
    if listing is not _moving_steps:
        assert {10, 20} >= set(await sql.fetchval(STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("listing", [_random_steps, _random_metric_names], ids=name)
async def test_made_up_steps_and_names(
    store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing
) -> None:
    """Random steps add a row only if they are larger than all before, and random metrics only up to a limit."""
    rows = await play(store, provider, sql, listing, range(1, 201))
    assert await sql.fetchval(UNSTABLE)
    assert rows[-1] - rows[100] <= 4 * 3  # a new maximum is rare, and is a checkpoint, a change and a poll
    assert 64 >= await sql.fetchval(
        "select max((select count(*) from jsonb_object_keys(extra_metrics))) from fine_tuning.checkpoints"
    )


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("listing", NEVER_STABLE, ids=name)
async def test_ended_job_is_sealed(store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing) -> None:
    """An ended job whose list never stabilises settles and is sealed: its listings have no news."""
    await track(store)
    provider.jobs = page([job(status="succeeded")])
    await read_job_list(store, provider)
    rows = await play(store, provider, sql, listing, range(1, 60))
    assert 24 <= len(rows) < 59
    assert "sealed" == await sql.fetchval("select phase from fine_tuning.jobs")


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("listing", [_new_ids, _new_times, _random_models_and_ids, _flapping_null], ids=name)
async def test_news_of_an_unstable_job(
    store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing
) -> None:
    """Of an unstable job a new step is stored at once, an older one after two listings, and so is a late metric."""
    await play(store, provider, sql, listing, range(1, 16))
    assert await sql.fetchval(UNSTABLE)

    def with_news(turn: int) -> Items:
        items = listing(turn)
        items[0]["metrics"] = {**items[0]["metrics"], "full_valid_loss": 0.25 + turn}
        return renamed(turn, 30) + renamed(turn, 15) + items

    await play(store, provider, sql, with_news, [12])
    assert [10, 20, 30] == await sql.fetchval(STEPS)
    assert 12.25 == await sql.fetchval(
        "select full_valid_loss from fine_tuning.checkpoints where step_number = 20 and full_valid_loss is not null"
    )
    rows = await play(store, provider, sql, with_news, range(13, 40))
    assert [10, 15, 20, 30] == await sql.fetchval(STEPS)
    assert 1 == len(set(rows[1:]))
    assert await sql.fetchval(
        "select bool_and(missing_since is null) from fine_tuning.checkpoints where step_number > 20"
    )


@pytest.mark.slow
async def test_stable_again(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job is stable again after some equal listings. Its rows are then those of the list, and changes are stored."""
    await play(store, provider, sql, _new_times, range(1, 12))
    assert await sql.fetchval(UNSTABLE)
    await play(store, provider, sql, lambda _: _new_times(99), range(RECOVERY_LISTINGS))
    assert await sql.fetchval(UNSTABLE)
    await play(store, provider, sql, lambda _: _new_times(99), range(3))
    assert not await sql.fetchval(UNSTABLE)
    created = {item["created_at"] for item in _new_times(99)}
    assert created == {row[0] for row in await sql.fetch("select created_at from checkpointd.checkpoints")}
    assert "changed" == await sql.fetchval("select kind from fine_tuning.changes order by seq desc limit 1")
    await play(store, provider, sql, lambda _: [checkpoint(20, valid_loss=0.75)], [1, 2, 3])
    assert 0.75 == await sql.fetchval("select valid_loss from fine_tuning.checkpoints where step_number = 20")
    assert [10] == await sql.fetchval(
        "select array_agg(step_number) from fine_tuning.checkpoints where missing_since is not null"
    )


@pytest.mark.slow
async def test_resync_of_an_unstable_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A resync ends the instability: the next listing is compared in full."""
    await play(store, provider, sql, _noise, range(1, 12))
    assert await sql.fetchval(UNSTABLE)
    await store.resync(await store.find_jobs([JOB]))
    assert not await sql.fetchval(UNSTABLE)
    await play(store, provider, sql, _noise, [77])
    assert 0.5 + 77e-9 == await sql.fetchval("select max(valid_loss) from fine_tuning.checkpoints")


def _in_order(turn: int) -> Items:
    """List the last three checkpoints of a run that makes one in three polls, with late metrics."""
    newest = turn // 3 + 1
    return [
        checkpoint(step, full_valid_loss=1 / step if step < newest else None)
        for step in range(newest, max(newest - 3, 0), -1)
    ]


def _out_of_order(turn: int) -> Items:
    """List each older step later than a newer one."""
    listed = [step + 1 if step % 2 else step - 1 for step in range(1, turn // 3 + 2)]
    return [checkpoint(step) for step in reversed(listed)]


def _backfilled(turn: int) -> Items:
    """List one older step more at each poll."""
    return [checkpoint(step) for step in range(200, 200 - turn, -1)]


def _corrected_at_each_step(turn: int) -> Items:
    """Rename the last checkpoint with each new step."""
    newest = turn // 3 + 1
    return [{**checkpoint(newest), "fine_tuned_model_checkpoint": "ft:m:last"}] + [
        checkpoint(step) for step in range(newest - 1, 0, -1)
    ]


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("listing", [_in_order, _out_of_order, _backfilled, _corrected_at_each_step], ids=name)
async def test_ordinary_jobs_are_stable(
    store: Store, provider: Provider, sql: asyncpg.Connection, listing: Listing
) -> None:
    """Lists that grow, drop their oldest items, fill in metrics late or list steps late are not unstable."""
    await play(store, provider, sql, listing, range(1, 90))
    assert not await sql.fetchval(UNSTABLE)
    listed = {item["step_number"] for turn in range(1, 90) for item in listing(turn)}
    assert listed == set(await sql.fetchval(STEPS))


@pytest.mark.slow
async def test_corrections_now_and_then(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Four corrections in a row are stored as changes, and the job is stable."""
    assert DETECTED * UNSTEADY_POINTS == UNSTABLE_POINTS
    await play(store, provider, sql, _noise, range(1, DETECTED + 1))
    assert not await sql.fetchval(UNSTABLE)
    assert DETECTED - 1 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'changed'")
    await play(store, provider, sql, _noise, [50])
    assert await sql.fetchval(UNSTABLE)


@pytest.mark.slow
async def test_incomplete_listings_do_not_grow_for_ever(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A list whose second page always fails, and whose first one has new ids each time, is bounded, too."""
    await track(store)
    rows = []
    async with polling_one(store, provider) as (poller, _, _):
        for turn in range(60):
            provider.checkpoints[JOB] = [page(_new_ids(turn), has_more=True), page([], has_more=True)]
            await _hour_passes(sql)
            assert 1 == await tick(poller)
            await poller.queue.saved()
            rows.append(await sql.fetchval(ROWS))
    assert rows[20] == rows[-1]
    assert await sql.fetchval(UNSTABLE)


def _limit_checkpoints(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(growth, "CHECKPOINTS_PER_JOB", most)
    monkeypatch.setattr(comparison, "CHECKPOINTS_PER_JOB", most)


async def test_most_steps(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more steps of a job are stored than the limit. The others are rejects, and are logged and counted."""
    _limit_checkpoints(monkeypatch, 7)
    for turn in range(1, 5):
        provider.checkpoints[JOB] = page([checkpoint(step) for step in range(3 * turn, 3 * turn - 3, -1)])
        with capture_logs() as logged:
            await sync(store, provider)
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 7 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'new'")
    assert {"the job has checkpoints of 7 steps already: no more are stored"} == {
        row["reason"] for row in await sql.fetch("select reason from fine_tuning.rejects")
    }
    assert [3] == [line["items"] for line in logged if line["event"] == "poll.rejected"]
    assert await sql.fetchval("select last_success_at < last_complete_at from fine_tuning.freshness")
    assert await sql.fetchval(UNSTABLE)


@pytest.mark.slow
async def test_new_steps_among_many_old_rows(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a job has too many rows of few steps, as an older version stored them, each further step is stored once."""
    _limit_checkpoints(monkeypatch, 50)
    await track(store)
    await sql.execute(
        """insert into checkpointd.checkpoints (job, id, step_number, payload, missing_since)
        select key, 'ftckpt_old_' || n, 10, '{}', now() from checkpointd.jobs, generate_series(1, 60) n;
        select checkpointd.summarise(array_agg(key), '{false}') from checkpointd.jobs"""
    )
    rows = await play(store, provider, sql, lambda turn: renamed(turn, *range(min(turn, 9) + 10, 9, -1)), range(1, 30))
    assert list(range(10, 20)) == await sql.fetchval(STEPS)
    assert rows[15] == rows[-1]
    assert [] == await sql.fetch("select from fine_tuning.rejects")
    assert await sql.fetchval(UNSTABLE)


@pytest.mark.slow
async def test_new_ids_and_a_new_step_in_each_poll(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If all ids are new at each request, the job is unstable, even if it has a new step each time. All are stored."""
    turns = 60
    rows = await play(store, provider, sql, _new_ids_and_a_new_step, range(1, turns + 1))
    assert await sql.fetchval(UNSTABLE)
    assert {3} == {after - before for before, after in pairwise(rows[10:])}
    assert list(range(1, turns + 2)) == await sql.fetchval(STEPS)


@pytest.mark.slow
async def test_two_replicas(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Two daemons in turn detect the instability together, and report it once."""
    await track(store)
    rows = []
    with capture_logs() as logged:
        async with polling_one(store, provider) as (one, _, _), polling_one(store, provider) as (other, _, _):
            for turn in range(60):
                provider.checkpoints[JOB] = page(_new_ids(turn))
                await _hour_passes(sql)
                claimed = [await tick(poller) for poller in ((one, other) if turn % 2 else (other, one))]
                await one.queue.saved()
                await other.queue.saved()
                assert [1, 0] == claimed
                rows.append(await sql.fetchval(ROWS))
    assert rows[10] == rows[-1]
    assert 1 == [line["event"] for line in logged].count("poll.unstable")


async def test_reports(store: Store, provider: Provider, sql: asyncpg.Connection, url: str, tmp_path: Path) -> None:
    """`check`, `status`, `jobs`, the status page and the metrics show an unstable job, until it is sealed."""
    await play(store, provider, sql, _new_ids, range(1, 12))
    provider.jobs = page([job()])
    env = environment(tmp_path, url, provider.url)
    checked = await checkpointd("check", env=env)
    (line,) = [line for line in checked.out.splitlines() if line.startswith("warn") and "lists of test" in line]
    assert "1 job " in line
    assert JOB in line
    assert "unstable: its list differs" in (await checkpointd("status", env=env)).out
    (row,) = json.loads((await checkpointd("jobs", "--json", env=env)).out)
    assert row["unstable_since"]
    (row,) = json.loads((await checkpointd("status", "--json", env=env)).out)["jobs"]
    assert row["unstable_since"]
    await database_metrics.refresh(store, Health(), ["test"])
    assert 1 == metrics.REGISTRY.get_sample_value("checkpointd_unstable_jobs", {"source": "test"})
    await sql.execute("update checkpointd.polling set sealed_at = now(), next_poll_at = 'infinity'")
    assert "lists of test" not in (await checkpointd("check", env=env)).out
