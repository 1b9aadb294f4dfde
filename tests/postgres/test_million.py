"""The queries of dashboards are fast with a million checkpoints and steps, and use the indexes."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from support.logins import connected

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]  # the first test fills the database

FILL = """
    insert into checkpointd.sources (key, name, kind) values (1, 'one', 'openai'), (2, 'two', 'azure');
    select count(*) from checkpointd.sources s cross join lateral checkpointd.track_jobs(
      s.key, array(select format('ftjob-%s', n) from generate_series(s.key, 10000, 2) n));
    update checkpointd.jobs set status = 'running', model = 'gpt', hyperparameters = '{"n_epochs": 100}';
    update checkpointd.polling set last_attempt_at = now(), last_complete_at = now(), last_success_at = now(),
      gap_s = 3600, next_poll_at = now() + interval '1 hour';
    insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, train_loss,
      valid_loss, full_valid_loss, missing_since, payload)
    select j.key, format('ftckpt_%s_%s', j.id, n), 10 * n, 1735689600 + n, format('ft:gpt:%s:ckpt-step-%s', j.id, n),
      1.0 / n, 1.1 / n, 1.2 / n, case when n < 98 then now() end,
      json_build_object('id', n, 'object', 'fine_tuning.job.checkpoint', 'step_number', 10 * n)
    from generate_series(1, 100) n cross join checkpointd.jobs j;
    insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
    select key, 0, now(), now(), 100 from checkpointd.jobs;
    insert into checkpointd.steps (job, step_number, created_at, total_steps, train_loss, valid_loss, id)
    select j.key, n, 1735689600 + n, 100, 1.0 / n, case when n % 10 = 0 then 1.1 / n end, 'ftevent-' || n
    from checkpointd.jobs j cross join generate_series(1, 100) n order by j.key, n;
    insert into checkpointd.polls (job, first_at, last_at, outcome, items, new, changed)
    select j.key, t, t, 'changed', 3, 5, 0 from generate_series(1, 20) n cross join checkpointd.jobs j
    cross join lateral (select now() - (100 - 5 * n) * interval '1 day') a (t);
    insert into checkpointd.changes (job, at, poll, kind, checkpoint_id)
    select j.key, now() - (100 - n) * interval '1 day', 1, 'new', format('ftckpt_%s_%s', j.id, n)
    from generate_series(1, 100) n cross join checkpointd.jobs j;
    insert into checkpointd.rejects (job, digest, reason, raw)
    select j.key, convert_to(n::text, 'UTF8'), 'no object', '[]'
    from generate_series(1, 10) n cross join checkpointd.jobs j where j.id like '%7';
    select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs"""
"""10,000 jobs of two sources with 100 checkpoints each, which came one a day over 100 days, and 100 steps each."""


@pytest.fixture(scope="module")
def million(postgres: str, migrated: str) -> Iterator[str]:
    """Yield the URL of a database with a million checkpoints and a million steps."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres.format("postgres"))
        await admin.execute(f"create database million template {migrated}")
        await admin.close()
        sql = await asyncpg.connect(postgres.format("million"))
        await sql.execute(FILL)
        await sql.execute("vacuum analyze")
        await sql.close()

    async def drop() -> None:
        admin = await asyncpg.connect(postgres.format("postgres"))
        await admin.execute("drop database million with (force)")
        await admin.close()

    asyncio.run(make())
    yield postgres.format("million")
    asyncio.run(drop())


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


ONE = "fine_tuning_job_id = 'ftjob-777'"
LATEST = """
    select j.id, c.train_loss from fine_tuning.jobs j join fine_tuning.checkpoints c on c.source = j.source
    and c.fine_tuning_job_id = j.id and c.step_number = j.latest_step where j.id in ('ftjob-1', 'ftjob-2', 'ftjob-3')"""
JOB = {"jobs_id", "jobs_source_id_unique"}
"""Indexes from a job's id to its key. Either is good."""


async def _explained(reader: asyncpg.Connection, query: str) -> tuple[dict[str, Any], float]:
    """Return the plan of a query, and its seconds: the fewest of five runs, because other programs use the machine."""
    explained = [json.loads(await reader.fetchval(f"explain (analyze, format json) {query}"))[0] for _ in range(5)]
    return explained[-1]["Plan"], min(one["Execution Time"] for one in explained) / 1000


@pytest.mark.parametrize(
    ("query", "rows", "indexes", "seconds"),
    [
        # one job
        (f"select * from fine_tuning.checkpoints where {ONE} order by step_number", 100, {"checkpoints_pkey"}, 0.3),
        (f"select * from fine_tuning.checkpoints where source = 'one' and {ONE}", 100, {"checkpoints_pkey"}, 0.3),
        (f"select * from fine_tuning.checkpoint_metrics where {ONE} and metric = 'step'", 0, {"checkpoints_pkey"}, 0.3),
        (f"select * from fine_tuning.checkpoint_metrics where {ONE}", 300, {"checkpoints_pkey"}, 0.3),
        ("select * from fine_tuning.jobs where id = 'ftjob-777'", 1, {"polling_pkey"}, 0.3),
        (f"select * from fine_tuning.best_checkpoints where {ONE}", 1, {"checkpoints_pkey"}, 0.3),
        (f"select * from fine_tuning.comparison where {ONE}", 1, {"checkpoints_pkey", "steps_pkey"}, 0.3),
        (f"select * from fine_tuning.best_steps where {ONE}", 1, {"checkpoints_pkey", "steps_pkey"}, 0.3),
        (f"select * from fine_tuning.freshness where {ONE}", 1, {"polling_pkey"}, 0.3),
        (f"select * from fine_tuning.changes where {ONE} order by seq desc limit 50", 50, {"changes_job"}, 0.3),
        (f"select * from fine_tuning.polls where {ONE} order by id desc limit 50", 20, {"polls_job"}, 0.3),
        (f"select * from fine_tuning.rejects where {ONE}", 10, {"rejects_job_digest_unique"}, 0.3),
        # the feed, and ranges of time
        ("select * from fine_tuning.changes where seq > 900000 order by seq limit 1000", 1000, {"changes_pkey"}, 1),
        ("select * from fine_tuning.changes order by seq desc limit 50", 50, {"changes_pkey"}, 0.3),
        ("select * from fine_tuning.changes where at >= now() - interval '1 hour'", 10000, {"changes_at"}, 1),
        ("select * from fine_tuning.polls order by id desc limit 50", 50, {"polls_pkey"}, 0.3),
        # all jobs: one row for each of them
        ("select * from fine_tuning.freshness", 10000, set(), 2),
        ("select * from fine_tuning.freshness where is_stale", 0, set(), 2),
        ("select * from fine_tuning.jobs", 10000, set(), 2),
        ("select * from fine_tuning.best_checkpoints", 10000, set(), 5),
        ("select source, fine_tuning_job_id, best_value from fine_tuning.comparison", 10000, set(), 1),
        ("select * from fine_tuning.comparison", 10000, set(), 15),
        ("select * from fine_tuning.best_steps", 10000, {"steps_pkey"}, 15),
        ("select * from fine_tuning.sources", 2, set(), 1),
        (LATEST, 3, {"checkpoints_pkey"}, 0.3),
    ],
)  # fmt: skip
async def test_dashboards(million: str, query: str, rows: int, indexes: set[str], seconds: float) -> None:
    """A query of one job, or of the newest rows, is fast and uses an index. One of all jobs takes a second or two."""
    async with connected(million, "in role checkpointd_reader") as reader:
        assert rows == len(await reader.fetch(query))
        plan, took = await _explained(reader, query)
    nodes = list(_nodes(plan))
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    assert indexes <= used
    if "ftjob-" in query:
        assert JOB & used
    if indexes:
        assert not {"checkpoints", "changes", "polls", "steps"} & scanned
    assert took < seconds


async def test_metrics_as_of(million: str) -> None:
    """metrics_as_of() of one job takes less than half a second."""
    async with connected(million, "in role checkpointd_reader") as reader:
        query = "select * from fine_tuning.metrics_as_of('ftjob-778', now() - interval '50 days')"
        assert 3 * 50 == len(await reader.fetch(query))
        _, took = await _explained(reader, query)
    assert took < 0.5
