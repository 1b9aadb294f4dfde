"""Findings over time: each fires once and is resolved once, whichever daemons evaluate them, and whenever they die."""

import asyncio

import asyncpg
import pytest

from checkpointd.postgres import findings, queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store, open_store
from support import hostile
from support.finding_histories import FAILING, FALLING, OVERFITTING, PACED, History, add, found

STALE = FAILING + "last_complete_at = now() - interval '6 min', "
SILENT = PACED + "newest_seen_at = now() - interval '1 hour', "
_STEPS = """
    insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps_at)
    values ({{job}}, 0, now(), now(), {})"""


async def _feed(sql: asyncpg.Connection) -> list[tuple[str, str]]:
    """Return the kind and the field of each change that is about a finding, in the order of the feed."""
    rows = await sql.fetch("select kind, field from fine_tuning.changes where finding_id is not null order by seq")
    return [(row["kind"], row["field"]) for row in rows]


async def _lose(sql: asyncpg.Connection, loss: float) -> None:
    """Store another full_valid_loss of the last checkpoint, as a save does."""
    await sql.execute(f"""
        update checkpointd.checkpoints set full_valid_loss = {loss} where step_number = 300;
        select checkpointd.summarise(array[job], array[false]) from checkpointd.polling;
        insert into checkpointd.changes (job, kind, checkpoint_id, field, old_value, new_value)
        select job, 'changed', id, 'full_valid_loss', '0', '{loss}' from checkpointd.checkpoints
        where step_number = 300""")


@pytest.fixture(autouse=True)
async def source(store: Store) -> int:
    """Return the key of the source `test`."""
    return (await store.register_sources({"test": "openai"}))["test"]


async def test_a_value_near_the_limit(store: Store, sql: asyncpg.Connection) -> None:
    """A validation loss fires at five percent above its best value, and is resolved below two percent."""
    await add(sql, "job", History("", losses=[*FALLING[:2], (0.5, 0.9)]))
    seen = []
    for loss in (0.92, 0.94, 0.96, 0.94, 0.92, 0.94, 0.91, 0.92, 0.94, 0.96):
        await _lose(sql, loss)
        await evaluate_findings(store, 0, 0)
        seen.append("overfitting" in (await found(sql)).get("job", ""))
    assert [False, False, True, True, True, True, False, False, False, True] == seen
    kinds = [kind for kind, field in await _feed(sql) if field == "overfitting"]
    assert ["fired", "resolved", "fired"] == kinds


async def test_a_condition_that_comes_and_goes(store: Store, sql: asyncpg.Connection) -> None:
    """A finding is resolved when its condition has not been met for some time, and fires no second time before."""
    key = await add(sql, "job", History("", polling=STALE))
    await evaluate_findings(store, 0, 300)
    for _ in range(2):
        await sql.execute("update checkpointd.polling set failing_since = null")
        await evaluate_findings(store, 0, 300)
        assert {"job": "stale"} == await found(sql)
        await sql.execute("update checkpointd.polling set failing_since = now() - interval '5 min'")
        await evaluate_findings(store, 0, 300)
    await sql.execute("update checkpointd.polling set failing_since = null")
    await evaluate_findings(store, 0, 300)
    await sql.execute("update checkpointd.findings set clear_since = clear_since - interval '301 s'")
    await evaluate_findings(store, 0, 300)
    assert {} == await found(sql)
    assert [("fired", "stale"), ("resolved", "stale")] == await _feed(sql)
    rows = await sql.fetch("""
        select c.kind, c.at, f.since, f.until, c.old_value, c.new_value, f.message, c.source, c.fine_tuning_job_id
        from fine_tuning.changes c join fine_tuning.findings f on f.id = c.finding_id order by c.seq""")
    assert [(rows[0]["since"], None), (rows[1]["until"], rows[1]["message"])] == [
        (row["at"], row["old_value"]) for row in rows
    ]
    assert [rows[0]["message"], None] == [row["new_value"] for row in rows]
    assert {("test", "job")} == {(row["source"], row["fine_tuning_job_id"]) for row in rows}
    assert key == await sql.fetchval("select job from checkpointd.findings")


async def test_a_clock_that_was_set_back(store: Store, sql: asyncpg.Connection) -> None:
    """Times that were written in the future neither keep findings from being evaluated nor from being resolved."""
    await add(sql, "job", History("", polling=STALE))
    await evaluate_findings(store, 0, 300)
    await sql.execute("""
        update checkpointd.polling set failing_since = null, last_complete_at = now();
        update checkpointd.findings set clear_since = now() + interval '1 hour';
        update checkpointd.finding_cursor set evaluated_at = now() + interval '1 hour'""")
    await evaluate_findings(store, 15, 300)
    await sql.execute("update checkpointd.findings set clear_since = clear_since - interval '301 s'")
    await evaluate_findings(store, 0, 300)
    assert {} == await found(sql)


async def test_leaving_checkpoints(store: Store, sql: asyncpg.Connection) -> None:
    """Each checkpoint that is about to leave has a finding of its own, which is resolved when it has left."""
    key = await add(sql, "job", History("", losses=[(0.9, 0.7), (0.7, 0.71), (0.5, 0.72)], polling=PACED))
    for step in (100, 200):
        await evaluate_findings(store, 0, 0)
        await sql.execute(f"""
            insert into checkpointd.checkpoints (job, id, step_number, full_valid_loss, payload)
            values ({key}, 'new-{step}', {step + 300}, 0.8, '{{}}');
            update checkpointd.checkpoints set missing_since = now() where step_number = {step};
            select checkpointd.summarise(array[{key}], array[false]);
            insert into checkpointd.changes (job, kind, checkpoint_id) values ({key}, 'new', 'new-{step}')""")
    await evaluate_findings(store, 0, 0)
    rows = await sql.fetch(
        "select checkpoint_id, until is null as is_open from fine_tuning.findings where kind = 'leaving' order by id"
    )
    expected = [(f"ckpt-{key}-100", False), (f"ckpt-{key}-200", False), (f"ckpt-{key}-300", True)]
    assert expected == [tuple(row) for row in rows]


async def test_expiring_checkpoints(store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any change, an expiry that comes near fires once, and is resolved when it is over or was postponed."""
    monkeypatch.setattr(findings, "JOBS_OF_EACH_KIND", 2)
    for number in range(5):
        await add(sql, f"job-{number}", History(""))
    await evaluate_findings(store)
    fired = {f"job-{number}": "leaving" for number in range(5)}
    for hours, expected in ((73, {}), (71, fired), (70, fired), (-1, {}), (1, fired), (100, {})):
        await sql.execute(
            "update checkpointd.checkpoints set expires_at = now() + $1 * interval '1 h' where step_number = 300", hours
        )
        for _ in range(3):  # open findings are looked at in turns
            await evaluate_findings(store, 0, 0)
        assert expected == await found(sql), hours
    assert 5 * ["fired"] + 5 * ["resolved"] + 5 * ["fired"] + 5 * ["resolved"] == [kind for kind, _ in await _feed(sql)]
    messages = await sql.fetch("select message from fine_tuning.findings where checkpoint_id like 'ckpt-%-300'")
    assert 10 == len(messages)
    assert all(row["message"].startswith("The best checkpoint, ckpt-") for row in messages)


async def test_replicas(url: str, sql: asyncpg.Connection) -> None:
    """Of five daemons that evaluate at the same time, one does, and each finding fires and is resolved once."""
    for number in range(20):
        await add(sql, f"job-{number}", History("", losses=OVERFITTING))
    async with open_store(lambda: connect(url), 5) as store:
        first = await asyncio.gather(*(evaluate_findings(store) for _ in range(5)))
        await sql.execute("update checkpointd.jobs set untracked_at = now()")
        last = await asyncio.gather(*(evaluate_findings(store, 0, 0) for _ in range(5)))
    assert [20] == [len(fired) for fired, _ in first if fired]
    assert 20 == sum(len(resolved) for _, resolved in last)
    assert 20 * [("fired", "overfitting")] + 20 * [("resolved", "overfitting")] == await _feed(sql)


async def test_nothing_is_evaluated_twice(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes are looked at in their order, some at a time, until none is left, and open findings in turns."""
    monkeypatch.setattr(findings, "CHANGES_AT_ONCE", 3)
    monkeypatch.setattr(findings, "JOBS_OF_EACH_KIND", 2)
    for number in range(5):
        await add(sql, f"job-{number}", History("", losses=OVERFITTING))
    fired, _ = await evaluate_findings(store)
    assert 5 == len(fired)
    await sql.execute("update checkpointd.jobs set untracked_at = now()")
    resolved = [len((await evaluate_findings(store, 0, 0))[1]) for _ in range(4)]
    assert 5 == sum(resolved)
    assert 2 == max(resolved)
    last = await sql.fetchrow("select seq, (select max(seq) from checkpointd.changes) from checkpointd.finding_cursor")
    await evaluate_findings(store, 0, 0)
    assert last
    assert last[1] == await sql.fetchval("select seq from checkpointd.finding_cursor")


async def _evaluate_two_at_once(store: Store) -> list[int]:
    """Evaluate until nothing is left, looking at two jobs of each kind at once. Returns what each transaction fired."""
    seen, is_behind = [], True
    while is_behind:
        (row,) = await store.fetch(queries.EVALUATE_FINDINGS, 0.0, 300.0, 2000, 2)
        seen.append(len(row["fired"]))
        is_behind = row["is_behind"]
    return seen


@pytest.mark.parametrize(
    "history",
    [
        History("", polling=STALE),
        History("", polling="rejected = 1, "),
        History("", polling=SILENT),
        History("", status=None, polling=SILENT + "settling_since = now() - interval '1 min', "),
        History("", losses=OVERFITTING, more=_STEPS.format("now() - (1 + {job} % 5) * interval '1 min'")),
    ],
)
async def test_many_jobs_without_a_change(store: Store, sql: asyncpg.Connection, history: History) -> None:
    """Jobs that are found without a change, too, are looked at some at a time, until none is left, and only once."""
    for number in range(5):
        await add(sql, f"job-{number}", history)
    await sql.execute("update checkpointd.finding_cursor set seq = (select max(seq) from checkpointd.changes)")
    assert [2, 2, 1] == await _evaluate_two_at_once(store)
    assert [0] == await _evaluate_two_at_once(store)
    assert 5 == await sql.fetchval("select count(*) from checkpointd.findings")


async def test_jobs_of_which_nothing_can_fire(store: Store, sql: asyncpg.Connection) -> None:
    """Jobs of which nothing can fire yet do not keep others from being looked at."""
    await store.register_sources({"other": "openai"})
    for number in range(3):
        await add(sql, f"unknown-{number}", History("", status=None, polling=SILENT))
        await add(sql, f"steps-{number}", History("", polling=SILENT, more=_STEPS.format("now()")))
        await add(sql, f"failing-{number}", History("", polling=STALE))
    await sql.execute("""
        update checkpointd.jobs set source = (select key from checkpointd.sources where name = 'other')
        where id ~ 'failing';
        update checkpointd.polling set source = jobs.source from checkpointd.jobs where jobs.key = polling.job;
        update checkpointd.sources set state = 'paused', resume_at = now() where name = 'other'""")
    await add(sql, "job", History("", polling=SILENT))
    await sql.execute("""
        update checkpointd.finding_cursor
        set seq = (select max(seq) from checkpointd.changes), steps_at = now() + interval '1 hour';
        update checkpointd.event_lists set steps_at = now() - interval '20 s'""")
    assert [1] == await _evaluate_two_at_once(store)
    assert {"job": "stalled"} == await found(sql)


async def test_a_daemon_that_dies(url: str, store: Store, sql: asyncpg.Connection) -> None:
    """If the session that evaluates is ended before its commit, nothing is written, and the next one finds it all."""
    await add(sql, "job", History("", losses=OVERFITTING))
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("select from checkpointd.feed_gate for update")
    dying = asyncio.create_task(evaluate_findings(store))
    other = await asyncpg.connect(url)
    waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    while not (pid := await other.fetchval(waiting)):  # noqa: ASYNC110  # a lock sends no event
        await asyncio.sleep(0.01)
    await other.execute("select pg_terminate_backend($1)", pid)
    with pytest.raises(DatabaseUnavailableError):
        await dying
    await transaction.rollback()
    await other.close()
    assert {} == await found(sql)
    await evaluate_findings(store)
    assert {"job": "overfitting"} == await found(sql)


async def test_hostile_values(store: Store, sql: asyncpg.Connection) -> None:
    """No number, name or text of a provider makes an evaluation fail."""
    await hostile.store_hostile(sql)
    await sql.execute("""
        update checkpointd.polling
        set rejected = 1, arrivals = 2, spacing_s = 1e9, spread_s = 1e9, newest_seen_at = now();
        insert into checkpointd.steps (job, step_number, id, train_loss)
        select job, n * 300000000000000000, n, case when n % 2 = 0 then 1e308 else -1e308 end
        from checkpointd.polling, generate_series(1, 30) n where job % 2 = 0;
        insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps)
        select job, 0, now(), now(), 30 from checkpointd.polling where job % 2 = 0;
        insert into checkpointd.objectives
        select job, case when job % 2 = 0 then 'valid_loss' else 'full_valid_loss' end, 'maximize'
        from checkpointd.polling;
        update checkpointd.checkpoints set valid_loss = train_loss, full_valid_loss = -train_loss;
        select checkpointd.summarise(array_agg(job), array_agg(false)) from checkpointd.polling""")
    fired, _ = await evaluate_findings(store)
    assert fired


async def test_a_renamed_source(store: Store, sql: asyncpg.Connection, source: int) -> None:
    """If a source gets the name of one without jobs, the findings of that one are its own, and in the feed."""
    keys = await store.register_sources({"other": "openai"})
    await add(sql, "job", History(""))
    await sql.execute(
        "update checkpointd.sources set state = 'refused', last_error = 'HTTP 401', job_list_attempt_at = now()"
    )
    await evaluate_findings(store)
    assert {"test": "source_refused", "other": "source_refused"} == await found(sql)
    assert "renamed" == await sql.fetchval("select checkpointd.rename_source('test', 'other')")
    assert {"other": "source_refused"} == await found(sql)
    assert {source} == {row["source"] for row in await sql.fetch("select source from checkpointd.findings")}
    assert keys["other"] != source
    assert 2 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'fired'")
