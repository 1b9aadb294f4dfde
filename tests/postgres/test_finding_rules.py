"""What is found of hand-made histories of jobs and sources: one table with what each rule must and must not find."""

from typing import Final

import asyncpg
import pytest

from checkpointd.domain.job import ENDED_STATUSES
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from checkpointd.provider.formats.together import read_metrics_list
from support.finding_histories import DAY_AGO, ENDED, FAILING, FALLING, OVERFITTING, PACED, History, add, found

SILENT: Final = ENDED + "arrivals = 3, spacing_s = 600, newest_seen_at = now() - interval '36 hours', "


def _expiry(step: int, hours: int, made: int | None = None) -> str:
    """Return the statement after which the checkpoint of a step expires in so many hours, and was made at another."""
    created_at = "null" if made is None else f"extract(epoch from now() + interval '{made} h')"
    return f"""update checkpointd.checkpoints set expires_at = now() + interval '{hours} h', created_at = {created_at}
      where job = {{job}} and step_number = {step};"""


HISTORIES: Final[dict[str, History]] = {
    "losses fall": History(""),
    "no checkpoints": History("", losses=[]),
    "validation loss rises while training loss falls": History("overfitting", losses=OVERFITTING),
    "both losses rise a little": History("", losses=[(0.9, 1.1), (0.7, 0.9), (0.75, 0.96)]),
    "validation loss rises by four percent": History("", losses=[(0.9, 1.1), (0.7, 0.9), (0.5, 0.936)]),
    "the newest validation loss is not known yet": History("", losses=[(0.9, 1.1), (0.7, 0.9), (0.5, None)]),
    "training loss alone": History("", losses=[(0.9, None), (0.7, None), (0.8, None)]),
    "accuracy is the objective, and falls": History(
        "overfitting",
        more="""update checkpointd.checkpoints set full_valid_mean_token_accuracy = 1 - step_number / 1000.0
          where job = {job}; insert into checkpointd.objectives
          values ({job}, 'full_valid_mean_token_accuracy', 'maximize')""",
    ),
    "training loss explodes": History("diverging", losses=[(0.9, None), (0.7, None), (2.5, None)]),
    "training loss explodes, but validation loss does not matter": History(
        "diverging", losses=[(0.9, 1.1), (0.7, 0.9), (2.5, 3.0)]
    ),
    "training loss returns to the level of the beginning": History(
        "", losses=[(1.2, None), (0.3, None), (0.2, None), (1.1, None)]
    ),
    "rewards are trained, and their loss says nothing": History(
        "",
        losses=[(0.9, None), (0.7, None), (2.5, None)],
        job="""payload = '{"method": {"type": "reinforcement"}}', """,
    ),
    "a loss is not a number": History(
        "diverging",
        losses=[(0.9, None), (0.7, None), (None, None)],
        more="""insert into checkpointd.rejects (job, digest, reason, raw, is_stored)
          values ({job}, 'x', 'metrics.train_loss: not finite', '{{"id": "ckpt-{job}-300"}}', true)""",
    ),
    "an earlier loss was not a number": History(
        "",
        losses=[(0.9, None), (None, None), (0.7, None)],
        more="""insert into checkpointd.rejects (job, digest, reason, raw, is_stored)
          values ({job}, 'x', 'metrics.train_loss: not finite', '{{"id": "ckpt-{job}-200"}}', true)""",
    ),
    "the loss of the last steps explodes": History(
        "diverging",
        more="""insert into checkpointd.steps (job, step_number, id, train_loss)
          select {job}, n, n, case when n > 280 then 3 else 1 / (1 + n / 100.0) end from generate_series(1, 300) n;
          insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps, steps_at)
          values ({job}, 0, now(), now(), 300, now())""",
    ),
    "the loss of one step explodes": History(
        "",
        more="""insert into checkpointd.steps (job, step_number, id, train_loss)
          select {job}, n, n, case when n = 300 then 9 else 1 / (1 + n / 100.0) end from generate_series(1, 300) n;
          insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps, steps_at)
          values ({job}, 0, now(), now(), 300, now())""",
    ),
    "no news for an hour": History("stalled", polling=PACED + "newest_seen_at = now() - interval '1 hour', "),
    "no news for half an hour": History("", polling=PACED + "newest_seen_at = now() - interval '30 min', "),
    "an hour of it was a pause": History(
        "", polling=PACED + "newest_seen_at = now() - interval '1 hour', waited_s = 3000, "
    ),
    "no checkpoint for an hour, but steps": History(
        "",
        polling=PACED + "newest_seen_at = now() - interval '1 hour', ",
        more="""insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps, steps_at)
          values ({job}, 0, now(), now(), 0, now() - interval '1 min')""",
    ),
    "paused for an hour": History(
        "", status="paused",
        polling=PACED + "newest_seen_at = now() - interval '1 hour', waiting_since = now() - interval '1 hour', ",
    ),
    "it was not read for an hour, either": History(
        "",
        polling=PACED + "newest_seen_at = now() - interval '1 hour', last_complete_at = now() - interval '55 min', ",
    ),
    "it ended": History("finished", status="succeeded", former_status="running", polling=ENDED),
    "it ended, and was not read since": History(
        "", status="succeeded", former_status="running",
        polling=ENDED + "last_attempt_at = now() - interval '1 h', last_complete_at = now() - interval '1 h', ",
    ),
    "it was cancelled": History("finished", status="cancelled", former_status="running", polling=ENDED),
    "it ended, overfitting": History(
        "finished overfitting", losses=OVERFITTING, status="succeeded", former_status="running", polling=ENDED
    ),
    "it had ended an hour before it was tracked": History(
        "finished", status="succeeded", job="finished_at = extract(epoch from now()) - 3600, ", polling=ENDED
    ),
    "it had ended the day before": History(
        "", losses=OVERFITTING, status="succeeded", job=f"finished_at = {DAY_AGO}, ", polling=ENDED
    ),
    "it failed the day before": History("", status="failed", job=f"finished_at = {DAY_AGO}, ", polling=ENDED),
    "it ended at an unknown time, and its checkpoints are old": History(
        "", losses=OVERFITTING, status="succeeded", polling=ENDED,
        more=f"update checkpointd.checkpoints set created_at = {DAY_AGO} where job = {{job}}",
    ),
    "its status is unknown, and its checkpoints are old": History(
        "", losses=OVERFITTING, status=None,
        more=f"update checkpointd.checkpoints set created_at = {DAY_AGO} where job = {{job}}",
    ),
    "it has no status, and was silent for long": History("finished", status=None, polling=SILENT),
    "it has an unknown status, and was silent for long": History("finished", status="training", polling=SILENT),
    "it has no status, was silent for long, and overfits": History(
        "finished overfitting", losses=OVERFITTING, status=None, polling=SILENT,
        more=f"update checkpointd.checkpoints set created_at = {DAY_AGO} where job = {{job}}",
    ),
    "it has no status, and its first listing was the last one with news": History(
        "", status=None, polling=SILENT + "arrivals = 1, arrival_error_s = 60, "
    ),
    "it has no status, and its only checkpoint came while it was tracked": History(
        "finished", losses=FALLING[:1], status=None,
        polling=SILENT + "arrivals = 1, arrival_error_s = 60, first_arrival_s = 300, ",
    ),
    "it has no status, and had ended two days before it was tracked": History(
        "", status=None, polling=SILENT + "newest_seen_at = now() - interval '72 hours', "
    ),
    "it has no status, and was silent for an hour": History(
        "", status=None, polling=PACED + "newest_seen_at = now() - interval '1 hour', "
    ),
    "it has no status, and its silence ended the day before": History(
        "", losses=OVERFITTING, status=None, polling=SILENT + "settling_since = now() - interval '26 hours', "
    ),
    "it failed": History(
        "failed", status="failed", former_status="running",
        job="""error = '{"code": "invalid_file", "message": "line 3 is no JSON"}', """, polling=ENDED,
    ),
    "a step is missing": History("suspected_gap", more="""update checkpointd.checkpoints set step_number = 900
      where job = {job} and step_number = 300; insert into checkpointd.checkpoints (job, id, step_number, payload)
      values ({job}, 'last', 1000, '{{}}')"""),
    "polls fail for longer than two gaps": History(
        "stale", polling=FAILING + "last_complete_at = now() - interval '6 min', "
    ),
    "polls fail, and the next one is under way": History(
        "",
        polling=FAILING
        + "last_complete_at = now() - interval '6 min', lease_expires_at = now() + interval '1 min', ",
    ),
    "a poll failed": History("", polling=FAILING + "last_complete_at = now() - interval '4 min', "),
    "the provider does not know it any more": History(
        "", polling=FAILING + "last_complete_at = now() - interval '6 min', is_gone = true, "
    ),
    "two items cannot be read": History("unreadable", polling="rejected = 2, "),
    "the best of three is the oldest": History(
        "leaving overfitting", losses=[(0.9, 0.7), (0.7, 0.9), (0.5, 1.2)], polling=PACED
    ),
    "the best of three is the second": History("overfitting", losses=OVERFITTING, polling=PACED),
    "the best is the oldest, and no further one will come": History(
        "overfitting", losses=[(0.9, 0.7), (0.7, 0.9), (0.5, 1.2)], polling=PACED,
        job="""hyperparameters = '{"n_epochs": 3}', """,
    ),
    "the best is the oldest of four that are listed": History(
        "overfitting", losses=[(0.9, 0.7), (0.7, 0.9), (0.6, 1.0), (0.5, 1.2)], polling=PACED
    ),
    "the best one expires tomorrow": History("leaving", more=_expiry(300, 24)),
    "the best one expires in four days": History("", more=_expiry(300, 96)),
    "the best one expired": History("", more=_expiry(300, -1)),
    "the best one expired, and is not listed any more": History(
        "", more=_expiry(300, 24) + " update checkpointd.checkpoints set missing_since = now() where job = {job}"
    ),
    "the best one expired, and another one expires tomorrow": History("", more=_expiry(300, -1) + _expiry(200, 24)),
    "another one than the best expires tomorrow": History("", more=_expiry(200, 24)),
    "the best one is in the first half of two days": History("", more=_expiry(300, 40, made=-8)),
    "the best one is in the second half of two days": History("leaving", more=_expiry(300, 16, made=-32)),
    "the best one was made after its expiry": History("leaving", more=_expiry(300, 16, made=20)),
    "it had ended the day before, and its best one expires tomorrow": History(
        "leaving", status="succeeded", job=f"finished_at = {DAY_AGO}, ",
        polling=ENDED + "sealed_at = now(), next_poll_at = 'infinity', ", more=_expiry(300, 24),
    ),
    "without a best one, the last one expires": History(
        "leaving", losses=[(None, None)] * 3, more=_expiry(100, 10) + _expiry(200, 20) + _expiry(300, 30)
    ),
    "without a best one, one does not expire": History(
        "", losses=[(None, None)] * 3, more=_expiry(100, 10) + _expiry(300, 30)
    ),
    "without a best one, one expires later": History(
        "", losses=[(None, None)] * 3, more=_expiry(100, 10) + _expiry(200, 96) + _expiry(300, 30)
    ),
    "the best of three is the oldest, and expires tomorrow": History(
        "leaving overfitting", losses=[(0.9, 0.7), (0.7, 0.9), (0.5, 1.2)], polling=PACED, more=_expiry(100, 24)
    ),
    "the best one expires tomorrow, but the provider does not know the job": History(
        "", polling="is_gone = true, ", more=_expiry(300, 24)
    ),
    "the best one expires tomorrow, but the job is not tracked": History(
        "", job="untracked_at = now(), ", more=_expiry(300, 24)
    ),
    "it is not tracked any more": History("", losses=OVERFITTING, job="untracked_at = now(), "),
}  # fmt: skip


@pytest.fixture
async def source(store: Store) -> int:
    """Return the key of the source `test`."""
    return (await store.register_sources({"test": "openai"}))["test"]


@pytest.mark.usefixtures("source")
async def test_histories(store: Store, sql: asyncpg.Connection) -> None:
    """Of each history, exactly what the table says is found, and a second evaluation finds nothing else."""
    for name, history in HISTORIES.items():
        await add(sql, name.replace(" ", "-"), history)
    expected = {name.replace(" ", "-"): history.expected for name, history in HISTORIES.items() if history.expected}
    await evaluate_findings(store)
    assert expected == await found(sql)
    assert ([], []) == await evaluate_findings(store, interval_seconds=0)
    assert expected == await found(sql)


@pytest.mark.usefixtures("source")
async def test_final_statuses(store: Store, sql: asyncpg.Connection) -> None:
    """Each final status, in upper or lower case, is found: those of failures as failed, all others as finished."""
    for status in ENDED_STATUSES:
        await add(sql, status, History("", status=status.title(), former_status="running", polling=ENDED))
    await evaluate_findings(store)
    expected = {status: "failed" if status in ("failed", "error") else "finished" for status in ENDED_STATUSES}
    assert expected == await found(sql)
    messages = await sql.fetch("select distinct message from fine_tuning.findings where kind = 'failed'")
    assert ["The job failed."] == [row["message"] for row in messages]
    epochs = "select checkpointd.epoch(10, 10, 20, '3', $1), checkpointd.epoch(10, 10, 20, '2', $1)"
    for status in ("succeeded", "Completed"):
        assert (None, 1) == tuple(await sql.fetchrow(epochs, status) or ())


@pytest.mark.usefixtures("source")
async def test_a_loss_of_together(store: Store, sql: asyncpg.Connection) -> None:
    """A loss of the newest step that Together sends as NaN is divergence, and one of an earlier step is not."""
    lost = b'{"train/global_step": %d, "train/grad_norm": Infinity, "train/loss": NaN}'
    for name, items in {
        "newest": [b'{"train/global_step": 299, "train/loss": 1}', b'{"eval/global_step": 300}', lost % 300],
        "earlier": [lost % 30, b'{"eval/global_step": 300, "eval/loss": 1}'],
    }.items():
        job = await add(sql, name, History(""))
        events = read_metrics_list(items, lambda _: False)
        for step in events.steps:
            await sql.execute(
                "insert into checkpointd.steps (job, step_number, id, train_loss) values ($1, $2, $3, $4)",
                job, step.step_number, step.id, step.train_loss,
            )  # fmt: skip
        for reject in events.rejects:
            await sql.execute(
                "insert into checkpointd.rejects (job, digest, reason, raw, is_stored) values ($1, $2, $3, $4, $5)",
                job, reject.key, reject.reason, reject.raw, reject.is_stored,
            )  # fmt: skip
        await sql.execute(
            "insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, steps, steps_at)"
            " values ($1, 0, now(), now(), $2, now())", job, len(events.steps),
        )  # fmt: skip
    await evaluate_findings(store)
    assert {"newest": "diverging"} == await found(sql)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("state = 'ok'", {"job": "stale"}),
        ("state = 'ok', state_since = now()", {}),
        ("state = 'refused', last_error = 'HTTP 401: no'", {"test": "source_refused"}),
        ("state = 'paused', resume_at = now() + interval '1 hour', paused_at = now()", {"test": "source_paused"}),
        ("state = 'paused', resume_at = now() + interval '5 s', paused_at = now()", {}),
        ("state = 'failing', state_since = now() - interval '2 min'", {"test": "stale"}),
        ("state = 'failing'", {}),
    ],
)
async def test_sources(
    store: Store, sql: asyncpg.Connection, source: int, state: str, expected: dict[str, str]
) -> None:
    """Of a source that is refused, paused for long or failing for long there is one finding, and none of its jobs.

    Nor when it is ok again, before the job was polled since.
    """
    failing = History("", polling=FAILING + "last_complete_at = now() - interval '6 min', ")
    await add(sql, "job", failing)
    await sql.execute(f"update checkpointd.sources set {state} where key = $1", source)
    await evaluate_findings(store)
    assert expected == await found(sql)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(("state", "kind"), [("refused", "source_refused"), ("failing", "stale")])
async def test_a_source_that_is_not_tried(store: Store, sql: asyncpg.Connection, state: str, kind: str) -> None:
    """A source that is in no settings any more, or whose jobs are not tracked any more, is resolved."""
    await add(sql, "job", History(""))
    await sql.execute(
        "update checkpointd.sources set state = $1, last_error = 'no', state_since = now() - interval '9 days'", state
    )
    for tried, not_tried in (
        ("polling set last_attempt_at = now()", "polling set last_attempt_at = now() - interval '25 hours'"),
        ("polling set last_attempt_at = now()", "jobs set untracked_at = now()"),
        ("sources set job_list_attempt_at = now()", "sources set job_list_attempt_at = now() - interval '25 hours'"),
    ):
        await sql.execute(f"update checkpointd.{tried}")
        await evaluate_findings(store, 0, 0)
        assert {"test": kind} == await found(sql)
        await sql.execute(f"update checkpointd.{not_tried}")
        await evaluate_findings(store, 0, 0)
        assert {} == await found(sql)


DEPLOYED: Final = {
    "openai": "step 300, ft:x: its full_valid_loss, 0.7, is the least of 3 checkpoints.",
    "nebius": "step 300, job:ckpt-{key}-300: its full_valid_loss",
    "together": "step 300, acme/x: its full_valid_loss",
    "tinker": "step 300, tinker://run/300: its full_valid_loss",
}


@pytest.mark.parametrize("kind", DEPLOYED)
async def test_the_text_that_deploys(store: Store, sql: asyncpg.Connection, kind: str) -> None:
    """The message of `finished` names the checkpoint by the text with which its provider deploys it."""
    await store.register_sources({"test": kind})
    key = await add(sql, "job", History("finished", status="succeeded", former_status="running", polling=ENDED))
    await sql.execute(
        """
        update checkpointd.checkpoints set fine_tuned_model_checkpoint = 'ft:x',
          details = case $1 when 'together' then '{"deploy_as": "acme/x"}'::jsonb
            when 'tinker' then '{"deploy_as": "tinker://run/300"}' end where step_number = 300""",
        kind,
    )
    await evaluate_findings(store)
    message = await sql.fetchval("select message from fine_tuning.findings")
    assert f"Deploy {DEPLOYED[kind].format(key=key)}" in message


async def test_an_end_by_silence(store: Store, sql: asyncpg.Connection) -> None:
    """A job with an unknown status that stalls is finished when it counts as ended, and no longer stalled.

    Without a metric, the message names the newest checkpoint. If a further checkpoint comes, it is not finished.
    """
    await store.register_sources({"test": "tinker"})
    running = PACED + "newest_seen_at = now() - interval '1 hour', "
    key = await add(sql, "job", History("", losses=[(None, None)], status="training", polling=running))
    seen = []
    for change in ("quiet_polls = 2", "settling_since = now()", "settling_since = null, newest_seen_at = now()"):
        await sql.execute(f"update checkpointd.polling set {change}")
        await sql.execute("insert into checkpointd.changes (job, kind, checkpoint_id) values ($1, 'new', 'x')", key)
        await evaluate_findings(store, 0, 0)
        seen.append(await found(sql))
    assert [{"job": "stalled"}, {"job": "finished"}, {}] == seen
    message = await sql.fetchval("select message from fine_tuning.findings where kind = 'finished'")
    assert message.startswith("The job seems to have ended: no new checkpoint since ")
    assert message.endswith(f" The newest one is ckpt-{key}-100.")
