"""Odd values of providers: each costs itself or, if it is important, its own item, and never disappears silently.

The reports: job records with NaN, times with a fraction, metrics that are texts, pages without `has_more`, ids of jobs
in other forms, and items that are nested thousands of levels deep. Each situation goes from the provider's bytes to the
views, or through a command.
"""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from checkpointd.polling.job_list import JobList
from checkpointd.postgres import job_records
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.metrics import REGISTRY
from support.harness import open_source, polling_one, read_job_list, row_versions, sync, tick, track
from support.provider import JOB, Provider, body, checkpoint, job, page
from support.verbs import checkpointd, environment

REJECTS = "select fine_tuning_job_id, reason, is_stored, raw from fine_tuning.rejects order by reason"


def _listed(*items: bytes | dict[str, Any], has_more: str = ', "has_more": false') -> Any:
    """Return the answer with these items, of which some are JSON text."""
    texts = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return body(b'{"object": "list", "data": [' + b", ".join(texts) + b"]" + has_more.encode() + b"}")


def _with(record: dict[str, Any], **texts: str) -> bytes:
    """Return the JSON of a record in which these members have the given JSON text."""
    members = {**{name: json.dumps(value) for name, value in record.items()}, **texts}
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in members.items()) + "}").encode()


def _rejected() -> float:
    return REGISTRY.get_sample_value("checkpointd_rejected_items_total", {"source": "test"}) or 0.0


# Job records


HYPERPARAMETERS = '{"n_epochs": 3, "learning_rate_multiplier": %s}'


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("hyperparameters.learning_rate_multiplier: not finite", {"hyperparameters": HYPERPARAMETERS % "NaN"}),
        ("hyperparameters.learning_rate_multiplier: not finite", {"hyperparameters": HYPERPARAMETERS % "-Infinity"}),
        ("hyperparameters.learning_rate_multiplier: not finite", {"hyperparameters": HYPERPARAMETERS % "1e999"}),
        ("hyperparameters.learning_rate_multiplier: has a NUL", {"hyperparameters": HYPERPARAMETERS % '"\\u0000"'}),
        ("hyperparameters.learning_rate_multiplier: has a NUL", {"hyperparameters": HYPERPARAMETERS % '"\\ud800"'}),
        ("metadata.a: not finite", {"metadata": '{"a": NaN, "b": "kept"}'}),
        ("usage: not finite", {"usage": "[1, Infinity]"}),
        ("created_at: not an integer", {"created_at": '"2024-04-04T06:21:39Z"'}),
        ("finished_at: does not fit in 64 bits", {"finished_at": "1e30"}),
        ("trained_tokens: not an integer", {"trained_tokens": "10.5"}),
        ("model: not a string", {"model": '["a"]'}),
        ("model: given twice with different values", {"model": '"a", "model": "b"'}),
        ("estimated_finish: not an integer", {"estimated_finish": "true"}),
    ],
)
async def test_odd_value_in_a_job_record(
    store: Store, provider: Provider, sql: asyncpg.Connection, reason: str, texts: dict[str, str]
) -> None:
    """A job record with NaN, or another odd value, is discovered and has its status; the value is a reject."""
    sent = _with(job(status="succeeded"), **texts)
    provider.jobs = _listed(job("ftjob-before"), sent, job("ftjob-after"))
    before = _rejected()
    with capture_logs() as lines:
        await read_job_list(store, provider, discover=True)
    statuses = dict(map(tuple, await sql.fetch("select id, status from fine_tuning.jobs")))
    assert {JOB: "succeeded", "ftjob-before": "running", "ftjob-after": "running"} == statuses
    row = await sql.fetchrow(
        "select hyperparameters ->> 'n_epochs' as epochs, metadata ->> 'b' as b from fine_tuning.jobs where id = $1",
        JOB,
    )
    assert ("3", "kept" if "metadata" in texts else None) == tuple(row or ())
    await sql.execute("select payload::jsonb from checkpointd.jobs where payload::text !~ '\\\\u(0000|d800)'")
    (reject,) = await sql.fetch(REJECTS)
    assert (JOB, True, sent) == (reject["fine_tuning_job_id"], reject["is_stored"], reject["raw"])
    assert reject["reason"].startswith(reason)
    assert before + 1 == _rejected()
    (line,) = [line for line in lines if line["event"] == "job_list.rejected"]
    assert (1, [JOB], "warning") == (line["items"], line["jobs"], line["log_level"])


@pytest.mark.parametrize("written", ["1712211800.0", "1712211800.75", "1.7122118e9"])
async def test_time_with_a_fraction_in_a_job_record(
    store: Store, provider: Provider, sql: asyncpg.Connection, written: str
) -> None:
    """A time of a job that is written with a fraction is stored in whole seconds, without a reject."""
    provider.jobs = _listed(_with(job(status="succeeded"), finished_at=written, estimated_finish=written))
    await track(store)
    await read_job_list(store, provider)
    row = await sql.fetchrow("select finished_at, estimated_finish, payload ->> 'finished_at' from checkpointd.jobs")
    assert (1712211800, 1712211800, written) == tuple(row or ())
    assert [] == await sql.fetch(REJECTS)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("id: not the id of a job", _with(job(".."))),
        ("id: not the id of a job", _with(job("a/b"))),
        ("id: not the id of a job", _with(job("a%2fb"))),
        ("id: missing", _with(job(), id="null")),
        ("id: not a string", _with(job(), id="7")),
        ("not a JSON object", b"7"),
        ("nested deeper than 64", _with(job(), metadata="[" * 7_000 + "]" * 7_000)),
        ("nested deeper than 64", _with(job(), metadata='{"a":' * 70_000 + "1" + "}" * 70_000)),
    ],
    ids=range(8),
)
async def test_unreadable_job_record(
    store: Store, provider: Provider, sql: asyncpg.Connection, reason: str, sent: bytes
) -> None:
    """A job record with an odd id, or nested deeply, costs only itself, and is a reject of its source, once."""
    provider.jobs = _listed(job("ftjob-before"), sent, job("ftjob-after"))
    before = _rejected()
    async with open_source(store, provider) as source:
        job_list = JobList(store, source, Health(), gap=30, lease_seconds=60, max_new_jobs=10_000)
        with capture_logs() as lines:
            await job_list.tick(due_or_not=True)
            versions = await row_versions(sql)
            await job_list.tick(due_or_not=True)
    assert versions == await row_versions(sql)
    assert ["ftjob-after", "ftjob-before"] == await sql.fetchval(
        "select array_agg(id order by id) from fine_tuning.jobs"
    )
    row = await sql.fetchrow(
        "select source, fine_tuning_job_id, reason, is_stored, count, raw from fine_tuning.rejects"
    )
    assert ("test", None, reason, False, 1, sent[: 64 * 1024]) == tuple(row or ())
    assert 1 == [line["event"] for line in lines].count("job_list.rejected")
    assert before + 1 == _rejected()


async def test_deep_record_of_a_known_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A record that is nested deeply is a reject of its job, if that is tracked."""
    provider.jobs = _listed(_with(job(), metadata="[" * 7_000 + "]" * 7_000), job("ftjob-2"))
    await track(store, JOB, "ftjob-2")
    await read_job_list(store, provider)
    rows = await sql.fetch("select id, status from fine_tuning.jobs order by id")
    assert [("ftjob-2", "running"), (JOB, None)] == sorted(map(tuple, rows))
    assert [(JOB, False)] == [(row[0], row[2]) for row in await sql.fetch(REJECTS)]


async def test_odd_status_is_not_stored_for_ever(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """An odd status does not overwrite the known one, and the next good one is stored."""
    await track(store)
    for status in ('"running"', "7", '"succeeded"'):
        provider.jobs = _listed(_with(job(), status=status))
        await read_job_list(store, provider)
    changes = await sql.fetch("select old_value, new_value from fine_tuning.changes order by seq")
    assert [(None, "running"), ("running", "succeeded")] == [tuple(row) for row in changes]


async def test_rejects_of_records_are_bounded(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rejects of a source's job list are stored up to a limit; the others are counted in one row."""
    monkeypatch.setattr(job_records, "MOST_REJECTS", 3)
    for n in range(3):
        provider.jobs = _listed(job(), *(_with(job(f"a/{n}-{m}")) for m in range(4)))
        await read_job_list(store, provider, discover=True)
    rows = await sql.fetch("select raw is null as rest, sum(count)::int from fine_tuning.rejects group by 1 order by 1")
    assert [(False, 3), (True, 9)] == [tuple(row) for row in rows]


@pytest.mark.parametrize("number", [1, 5])
async def test_record_that_the_database_rejects(
    store: Store, provider: Provider, sql: asyncpg.Connection, number: int
) -> None:
    """A record that only the database rejects costs only itself; all statuses beside it are stored."""
    await sql.execute("alter table checkpointd.jobs add constraint no_l check (metadata ->> 'owner' <> 'Łukasz')")
    ids = [f"ftjob-{n}" for n in range(9)]
    records = [job(name, metadata={"owner": "Łukasz" if n < number else "x"}) for n, name in enumerate(ids)]
    provider.jobs = page(records)
    with capture_logs() as lines:
        await read_job_list(store, provider, discover=True)
    rows = dict(map(tuple, await sql.fetch("select id, status from fine_tuning.jobs")))
    assert {name: None if n < number else "running" for n, name in enumerate(ids)} == rows
    rejects = await sql.fetch(REJECTS)
    assert ids[:number] == sorted(row["fine_tuning_job_id"] for row in rejects)
    assert {("the database rejects it: CheckViolation", False)} == {tuple(row)[1:3] for row in rejects}
    assert 1 == [line["event"] for line in lines].count("job_list.rejected")


# Checkpoints


@pytest.mark.parametrize("written", ["1721764807.25", "1721764807.0", "1.721764807e9"])
async def test_time_with_a_fraction(store: Store, provider: Provider, sql: asyncpg.Connection, written: str) -> None:
    """A checkpoint whose time has a fraction is stored; the payload keeps the fraction."""
    provider.checkpoints[JOB] = _listed(_with(checkpoint(7), created_at=written), checkpoint(6))
    await sync(store, provider)
    assert [] == await sql.fetch(REJECTS)
    row = await sql.fetchrow(
        "select created_at, payload ->> 'created_at' from checkpointd.checkpoints order by id desc"
    )
    assert (1721764807, written) == tuple(row or ())


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("metrics.train_loss: not a number", {"metrics": '{"train_loss": "NaN", "valid_loss": 0.4}'}),
        ("metrics.train_loss: not a number", {"metrics": '{"train_loss": "0.5", "valid_loss": 0.4}'}),
        ("metrics.train_loss: not a number", {"metrics": '{"train_loss": [], "valid_loss": 0.4}'}),
        ("metrics.train_loss: not finite", {"metrics": '{"train_loss": NaN, "valid_loss": 0.4}'}),
        ("metrics.train_loss: given twice", {"metrics": '{"train_loss": 1, "train_loss": 2, "valid_loss": 0.4}'}),
        ("metrics: a name is not printable", {"metrics": '{"a\\u0000": 1, "valid_loss": 0.4}'}),
        ("metrics: not an object", {"metrics": '"none"'}),
        ("created_at: not an integer", {"created_at": '"2024-04-04T06:21:39Z"'}),
        ("created_at: not an integer", {"created_at": "true"}),
        ("created_at: does not fit in 64 bits", {"created_at": "1e19"}),
        ("fine_tuned_model_checkpoint: not a string", {"fine_tuned_model_checkpoint": '{"name": "x"}'}),
        ("fine_tuned_model_checkpoint: has a NUL", {"fine_tuned_model_checkpoint": '"a\\u0000b"'}),
        ("note: not finite", {"note": "NaN"}),
    ],
)
async def test_odd_unimportant_value(
    store: Store, provider: Provider, sql: asyncpg.Connection, reason: str, texts: dict[str, str]
) -> None:
    """A metric that is a text, or another odd unimportant value, is null and a reject; the poll is a success."""
    sent = _with(checkpoint(7, valid_loss=0.4), **texts)
    provider.checkpoints[JOB] = _listed(checkpoint(8), sent, checkpoint(6))
    before = _rejected()
    with capture_logs() as lines:
        await sync(store, provider)
    rows = await sql.fetch(
        """select step_number, train_loss, valid_loss, created_at is null, is_final is null
        from fine_tuning.checkpoints order by 1"""
    )
    assert [6, 7, 8] == [row["step_number"] for row in rows]
    assert ("created_at" in texts, "fine_tuned_model_checkpoint" in texts) == tuple(rows[1][3:])
    assert reason.startswith("metrics: not an object") or 0.4 == rows[1]["valid_loss"]
    assert ("metrics" in texts) == (rows[1]["train_loss"] is None)
    (reject,) = await sql.fetch(REJECTS)
    assert (JOB, True, sent) == (reject["fine_tuning_job_id"], reject["is_stored"], reject["raw"])
    assert reject["reason"].startswith(reason)
    assert await sql.fetchval("select last_success_at is not null from fine_tuning.freshness")
    assert before + 1 == _rejected()
    assert 1 == [line["event"] for line in lines].count("poll.rejected")


@pytest.mark.parametrize("absent", ["created_at", "fine_tuned_model_checkpoint", "metrics", "fine_tuning_job_id"])
@pytest.mark.parametrize("is_null", [False, True])
async def test_absent_unimportant_value(
    store: Store, provider: Provider, sql: asyncpg.Connection, absent: str, is_null: bool
) -> None:
    """A checkpoint without a value that is not important is stored, without a reject, and readable in every view."""
    sent = checkpoint(7)
    del sent[absent]
    provider.checkpoints[JOB] = page([{**sent, absent: None} if is_null else sent])
    provider.jobs = page([job(status="succeeded", fine_tuned_model="ft:x")])
    await sync(store, provider)
    await read_job_list(store, provider)
    assert [] == await sql.fetch(REJECTS)
    for view in ("checkpoints", "best_checkpoints"):
        assert 1 == await sql.fetchval(f"select count(*) from fine_tuning.{view}")
    await sql.fetch("select * from fine_tuning.checkpoint_metrics")
    await sql.fetch("select * from fine_tuning.metrics_as_of($1, now())", JOB)


async def test_null_does_not_overwrite(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A time or a model's name that becomes null, absent or odd keeps its known value, and the feed says so once."""
    known = checkpoint(7)
    bare = {name: value for name, value in known.items() if name not in {"created_at", "fine_tuned_model_checkpoint"}}
    odd = {**known, "created_at": "soon", "fine_tuned_model_checkpoint": 7}
    for sent in (known, {**known, "created_at": None, "fine_tuned_model_checkpoint": None}, bare, odd, known):
        provider.checkpoints[JOB] = page([sent])
        await sync(store, provider)
        row = await sql.fetchrow("select created_at, fine_tuned_model_checkpoint from checkpointd.checkpoints")
        assert (known["created_at"], known["fine_tuned_model_checkpoint"]) == tuple(row or ())
    kinds = await sql.fetch("select kind, field from fine_tuning.changes where kind <> 'new' order by seq")
    fields = ("created_at", "fine_tuned_model_checkpoint")
    assert [(kind, name) for kind in ("regressed", "changed") for name in fields] == [tuple(row) for row in kinds]


async def test_nan_beside_a_changing_url_is_one_reject(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """NaN beside a signed URL that is new in every answer is one row of rejects, however often it is listed."""
    for n in range(5):
        texts = {"metrics": '{"train_loss": NaN}', "url": f'"https://example.org/?signature={n}"'}
        provider.checkpoints[JOB] = _listed(_with(checkpoint(7), **texts))
        await sync(store, provider)
    rows = await sql.fetch("select reason from fine_tuning.rejects")
    assert ["metrics.train_loss: not finite"] == [row["reason"] for row in rows]


@pytest.mark.parametrize(("is_sealed", "texts"), [(True, {"created_at": '"soon"'}), (False, {"step_number": '"7"'})])
async def test_odd_value_and_sealing(
    store: Store, provider: Provider, sql: asyncpg.Connection, is_sealed: bool, texts: dict[str, str]
) -> None:
    """An odd value of a stored item does not prevent that the job is sealed; an item that is not stored does."""
    provider.jobs = page([job(status="succeeded")])
    provider.checkpoints[JOB] = _listed(_with(checkpoint(7), **texts))
    await track(store)
    await read_job_list(store, provider)
    await sql.execute("update checkpointd.polling set settling_since = now() - interval '9 d'")
    for _ in range(4):
        async with polling_one(store, provider) as (poller, _, _):
            await tick(poller)
        await sql.execute("update checkpointd.polling set next_poll_at = now() where sealed_at is null")
    phase = await sql.fetchval("select phase from fine_tuning.jobs")
    assert ("sealed" if is_sealed else "settling") == phase


@pytest.mark.parametrize(
    "texts",
    [
        {"step_number": "null"},
        {"step_number": "9223372036854775808"},
        {"id": "7"},
        {"id": '"a\\u0000"'},
        {"fine_tuning_job_id": '"ftjob-2"'},
        {"object": "null"},
        {"object": '""'},
        {"object": '"checkpoint"'},
        {"object": '"fine_tuning.job.event"'},
        {"object": '"fine_tuning.job.checkpoint", "object": "x"'},
    ],
)
async def test_odd_important_value(
    store: Store, provider: Provider, sql: asyncpg.Connection, texts: dict[str, str]
) -> None:
    """An odd important value costs its own checkpoint, which is a reject; its neighbours are stored."""
    sent = _with(checkpoint(7), **texts)
    provider.checkpoints[JOB] = _listed(checkpoint(8), sent, checkpoint(6))
    await sync(store, provider)
    assert [6, 8] == await sql.fetchval(
        "select array_agg(step_number order by step_number) from fine_tuning.checkpoints"
    )
    assert [(False, sent)] == [tuple(row)[2:] for row in await sql.fetch(REJECTS)]
    assert await sql.fetchval("select last_success_at is null from fine_tuning.freshness")


@pytest.mark.parametrize("texts", [{"fine_tuning_job_id": '""'}, {"fine_tuned_model_checkpoint": '""'}])
async def test_empty_text(store: Store, provider: Provider, sql: asyncpg.Connection, texts: dict[str, str]) -> None:
    """An empty text counts as null: the checkpoint is stored without a reject."""
    provider.checkpoints[JOB] = _listed(_with(checkpoint(7), **texts))
    await sync(store, provider)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert [] == await sql.fetch(REJECTS)


async def test_every_second_record(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If every second record of a page is odd, each is a reject of its own, and all others are stored."""
    good = [job(f"ftjob-{n}") for n in range(50)]
    odd = [_with(job("ftjob-odd"), id=f'"{n}/.."') for n in range(50)]
    provider.jobs = _listed(*(record for pair in zip(odd, good, strict=True) for record in pair))
    before = _rejected()
    with capture_logs() as lines:
        await read_job_list(store, provider, discover=True)
    assert 50 == await sql.fetchval("select count(*) from fine_tuning.jobs where status = 'running'")
    assert 50 == await sql.fetchval("select count(*) from fine_tuning.rejects")
    assert before + 50 == _rejected()
    assert [50] == [line["items"] for line in lines if line["event"] == "job_list.rejected"]


async def test_record_that_is_given_twice(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Of two different records of a job on one page the last one counts, and the other one is a reject."""
    provider.jobs = _listed(job(status="queued"), job("ftjob-2"), job(status="running"), job("ftjob-2"))
    await read_job_list(store, provider, discover=True)
    assert {"running"} == set(await sql.fetchval("select array_agg(status) from fine_tuning.jobs"))
    rejects = await sql.fetch(REJECTS)
    assert [(JOB, False, json.dumps(job(status="queued")).encode())] == [
        (row["fine_tuning_job_id"], row["is_stored"], row["raw"]) for row in rejects
    ]


# Pages


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    "has_more",
    ["", ', "has_more": null', ', "has_more": "false"', ', "has_more": 0', ', "has_more": true, "has_more": false'],
)
async def test_page_without_has_more(store: Store, provider: Provider, sql: asyncpg.Connection, has_more: str) -> None:
    """The items of a page without a usable `has_more` are stored; the listing is incomplete and says why."""
    provider.checkpoints[JOB] = page([checkpoint(5)])
    await sync(store, provider)
    provider.checkpoints[JOB] = _listed(checkpoint(7), checkpoint(6), has_more=has_more)
    for _ in range(3):
        await sync(store, provider)
    rows = await sql.fetch("select step_number, missing_since from fine_tuning.checkpoints order by 1")
    assert [(5, None), (6, None), (7, None)] == [tuple(row) for row in rows]
    row = await sql.fetchrow(
        "select error_class, last_error, last_complete_at < last_attempt_at from fine_tuning.freshness"
    )
    assert row is not None
    assert ("bad_has_more", True) == (row["error_class"], row[2])
    assert "`has_more`" in row["last_error"]


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("has_more", ["", ', "has_more": null'])
async def test_job_list_without_has_more(
    store: Store, provider: Provider, sql: asyncpg.Connection, has_more: str
) -> None:
    """The records of a page of the job list without a usable `has_more` are stored; the list is not complete."""
    provider.jobs = _listed(job(), job("ftjob-2"), has_more=has_more)
    await read_job_list(store, provider, discover=True)
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.jobs where status = 'running'")
    row = await sql.fetchrow("select job_list_complete_at, job_list_error from fine_tuning.sources")
    assert row is not None
    assert row["job_list_complete_at"] is None
    assert "`has_more`" in row["job_list_error"]


async def test_has_more_that_is_missing_once(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A page without `has_more` is requested once more, and a good page then counts."""
    provider.checkpoints[JOB] = [_listed(checkpoint(6), has_more=""), page([checkpoint(7)])]
    await sync(store, provider)
    assert [7] == await sql.fetchval("select array_agg(step_number) from fine_tuning.checkpoints")
    assert await sql.fetchval("select last_success_at is not null from fine_tuning.freshness")


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("depth", [65, 7_000, 100_000])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_deep_item(store: Store, provider: Provider, sql: asyncpg.Connection, depth: int, at: int) -> None:
    """An item that is nested thousands of levels deep costs only itself, wherever it is in the list."""
    deep = _with(checkpoint(7), note="[" * depth + "]" * depth)
    items: list[Any] = [checkpoint(8), checkpoint(6)]
    items.insert(at, deep)
    provider.checkpoints[JOB] = _listed(*items)
    await sync(store, provider)
    assert [6, 8] == await sql.fetchval(
        "select array_agg(step_number order by step_number) from fine_tuning.checkpoints"
    )
    (reject,) = await sql.fetch(REJECTS)
    assert (JOB, False, deep[: 64 * 1024]) == (reject["fine_tuning_job_id"], reject["is_stored"], reject["raw"])
    assert await sql.fetchval("select last_complete_at is not null from fine_tuning.freshness")


async def test_deep_item_that_was_stored_is_not_missing(
    store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """A checkpoint that becomes unreadable by deep nesting is still listed: neither it nor another is missing."""
    provider.checkpoints[JOB] = page([checkpoint(8), checkpoint(7), checkpoint(6)])
    await sync(store, provider)
    provider.checkpoints[JOB] = _listed(_with(checkpoint(7), note="[" * 7_000 + "]" * 7_000), checkpoint(6))
    for _ in range(3):
        await sync(store, provider)
    rows = await sql.fetch("select step_number from fine_tuning.checkpoints where missing_since is not null")
    assert [8] == [row["step_number"] for row in rows]


async def test_deep_item_before_a_further_page(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The id of a deep item at the end of a page is the cursor of the next one."""
    deep = _with(checkpoint(7), note="[" * 7_000 + "]" * 7_000)
    provider.checkpoints[JOB] = [
        _listed(checkpoint(8), deep, has_more=', "has_more": true'),
        page([checkpoint(6)]),
    ]
    await sync(store, provider)
    assert checkpoint(7)["id"] == provider.requests[1].query["after"]
    assert [6, 8] == await sql.fetchval(
        "select array_agg(step_number order by step_number) from fine_tuning.checkpoints"
    )


@pytest.mark.parametrize("depth", [7_000, 100_000])
async def test_deep_value_beside_the_items(
    store: Store, provider: Provider, sql: asyncpg.Connection, depth: int
) -> None:
    """A deep value beside `data` affects no item."""
    provider.checkpoints[JOB] = _listed(
        checkpoint(7), has_more=', "has_more": false, "usage": ' + "[" * depth + "]" * depth
    )
    await sync(store, provider)
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert await sql.fetchval("select last_success_at is not null from fine_tuning.freshness")


# Ids of jobs


ID = "ft.v1:abc"


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("job_id", [ID, "model@2024-01", "0f8fad5b-d9cb-469f-a165-70867728950e", "a~b", "x" * 256])
async def test_ids_in_other_forms(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, job_id: str
) -> None:
    """An id that discovery accepts works in every command, and the provider receives it unchanged."""
    provider.jobs = page([job(job_id)])
    provider.checkpoints[job_id] = page([checkpoint(1, job_id)])
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_DISCOVER="true")
    for arguments in (["sync"], *([command, job_id] for command in ("sync", "resync", "untrack", "track", "sync"))):
        ended = await checkpointd(*arguments, env=env)
        assert 0 == ended.code, ended.err
    assert job_id == provider.requests[-1].match_info["job"]
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints where fine_tuning_job_id = $1", job_id)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("job_id", ["", " ", "..", "a/b", "sk-abc\udcff", "ftjob-1\n"])
async def test_strange_id_that_is_not_tracked(url: str, provider: Provider, tmp_path: Path, job_id: str) -> None:
    """A command with an id that cannot be tracked fails with one line, which does not advise to track it."""
    env = environment(tmp_path, url, provider.url)
    for command in ("untrack", "resync", "sync"):
        ended = await checkpointd(command, "--", job_id, env=env)
        assert ended.code in {1, 2}
        assert 1 == ended.err.count("\n")
        assert "checkpointd track" not in ended.err
        assert "DataError" not in ended.err


async def test_ids_from_a_file_with_a_byte_order_mark(url: str, provider: Provider, tmp_path: Path) -> None:
    """The ids on standard input may begin with a byte order mark and end with CR LF."""
    env = environment(tmp_path, url, provider.url)
    ended = await checkpointd("track", "-", env=env, stdin="\ufeffftjob-1\r\n\r\n ftjob-2 \r\n")
    assert (0, "2 jobs tracked (2 new)\n") == (ended.code, ended.out)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("job_id", ["..", ".", "a/../b", "a%2fb", "a?limit=1", "a#b", "sk-abc", "a b"])
async def test_unsafe_id_is_never_a_path(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, job_id: str
) -> None:
    """An unsafe id is refused by every way in. One that is stored already is a failure of its job, and untracked."""
    env = environment(tmp_path, url, provider.url)
    assert 2 == (await checkpointd("track", "--", job_id, env=env)).code
    async with open_store(lambda: connect(url)) as store:
        provider.jobs = page([job(job_id)])
        await read_job_list(store, provider, discover=True)
        assert 0 == await sql.fetchval("select count(*) from fine_tuning.jobs")
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await sql.execute("select fine_tuning.track($1)", job_id)
        if " " in job_id:
            return  # no version could store it
        provider.requests.clear()
        provider.checkpoints[JOB] = page([checkpoint(1)])
        await sync(store, provider, job_id, JOB)
        assert [JOB] == [request.match_info["job"] for request in provider.requests]
        row = await sql.fetchrow(
            "select error_class, last_error from fine_tuning.freshness where fine_tuning_job_id = $1", job_id
        )
        assert ("bad_request", "its id cannot be part of an address: untrack the job") == tuple(row or ())
    ended = await checkpointd("untrack", "--", job_id, env=env)
    assert (0, "1 job untracked\n") == (ended.code, ended.out)
