"""Fills a database by SQL with what daemons store in half a year.

Rows are inserted in the order of their times, as saves write them. The last jobs are still running, some jobs failed,
and some are polled late.
"""

from collections.abc import Sequence

import asyncpg

_FILL = """
insert into checkpointd.sources (name, kind, state, resume_at, last_error, job_list_complete_at) values
  ('openai', 'openai', 'ok', null, null, now()),
  ('azure', 'azure', 'paused', now() + interval '1 min', 'HTTP 429: too many requests', now()),
  ('gateway', 'compatible', 'refused', null, 'HTTP 401: no such key', null);

insert into checkpointd.jobs (source, id, tracked_by, tracked_at, status, model, created_at, finished_at,
  estimated_finish, hyperparameters, fine_tuned_model, trained_tokens)
select s.key, 'ftjob-' || substr(md5(n::text), 1, 24), 'discovery', t.began,
  case when t.runs then 'running' when n % 33 = 0 then 'failed' when n % 21 = 0 then 'cancelled' else 'succeeded' end,
  (array['gpt-4o-mini-2024-07-18', 'gpt-4.1-mini-2025-04-14', 'gpt-4.1-nano-2025-04-14'])[1 + n % 3],
  t.unix, case when not t.runs then t.unix + 64800 end, case when t.runs then t.unix + 68400 end,
  json_build_object('n_epochs', {checkpoints}), 'ft:tone:' || n, n * 1000
from generate_series(1, {jobs}) n
cross join lateral (select now() - interval '180 days' * ({jobs} - n + 0.5) / {jobs} as began) b
cross join lateral (
  select b.began, extract(epoch from b.began)::bigint as unix, b.began > now() - interval '18 hours' as runs) t
join checkpointd.sources s on s.name = (array['openai', 'openai', 'azure', 'gateway'])[1 + n % 4];

insert into checkpointd.polling (job, source, last_attempt_at, last_complete_at, last_success_at, last_change_at, gap_s,
  sealed_at, next_poll_at, failures, error_class, last_error)
select j.key, j.source, now(), p.complete_at, p.complete_at, p.complete_at, 120, case when p.sealed then now() end,
  case when p.sealed then 'infinity' else now() end, p.failing::int * 4, case when p.failing then 'network' end,
  case when p.failing then 'no connection: refused' end
from checkpointd.jobs j
cross join lateral (
  select j.key % 97 = 0 as failing, j.key % 97 > 0 and j.status <> 'running' as sealed,
    now() - interval '2 hours' * (j.key % 97 = 0)::int as complete_at) p;

insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, train_loss,
  train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy,
  extra_metrics, first_seen_at, last_changed_at, missing_since, payload)
select j.key, 'ftckpt_' || j.key || '_' || n, 40 * n, extract(epoch from t.seen)::bigint - 60,
  'ft:tone:' || j.key || ':ckpt-step-' || 40 * n, l.train, exp(-l.train), l.valid, exp(-l.valid), l.valid,
  exp(-l.valid),
  case when j.key % 10 = 0 then json_build_object('reward', n) end, t.seen, t.seen,
  case when n < {checkpoints} - 2 then t.seen + interval '1 hour' end, '{{}}'
from checkpointd.jobs j
cross join generate_series(1, {checkpoints}) n
cross join lateral (
  select 0.2 + 2 * exp(-4.0 * n / {checkpoints}) * (1 + 0.1 * sin(n * 7 + j.key)) as train,
    0.3 + 2 * exp(-4.0 * n / {checkpoints}) * (1 + 0.1 * sin(n * 5 + j.key)) as valid) l
cross join lateral (select j.tracked_at + interval '17 hours' * n / {checkpoints} as seen) t
where t.seen < now()
  and not (j.key % 200 = 7 and n = {checkpoints} / 2)  -- a gap
order by t.seen;

insert into checkpointd.polls (job, first_at, last_at, outcome, error_class, items, new, changed)
select c.job, c.first_seen_at, c.first_seen_at, case when c.failed then 'failed' else 'changed' end,
  case when c.failed then 'network' end, 3, (not c.failed)::int, 0
from (
  select c.job, c.first_seen_at, row_number() over (order by c.first_seen_at) % 50 = 0 as failed
  from checkpointd.checkpoints c) c
order by c.first_seen_at;

insert into checkpointd.changes (at, job, kind, checkpoint_id, field, new_value)
select c.first_seen_at, c.job, k.kind, c.id, k.field, k.new_value
from checkpointd.checkpoints c
cross join (values ('new', null, null), ('changed', 'full_valid_loss', '0.5')) k (kind, field, new_value)
where k.kind = 'new' or c.step_number % 400 = 0
order by c.first_seen_at;

insert into checkpointd.rejects (job, digest, reason, raw, first_seen_at, last_seen_at)
select j.key, sha256(n::text::bytea), 'id is missing', 'x', now() - interval '1 day' * n, now() - interval '1 day' * n
from checkpointd.jobs j cross join generate_series(1, 20) n
where j.key % 100 = 0
"""

_SUMMARISE = """
select checkpointd.summarise(array_agg(j.key), array_agg(j.key % 200 = 0)) from checkpointd.jobs j group by j.key / 1000
"""

_ADD_EVENTS = """
insert into checkpointd.event_lists (job, lease_token, attempt_at, due_at, complete_from, steps, messages)
select j.key, 0, now(), now(), now(), case when j.id = any ($1) then $2::int else 0 end, 12
from checkpointd.jobs j;

insert into checkpointd.events (job, id, created_at, type, level, message)
select j.key, 'ftevent-' || n, j.created_at + n, 'message', case when n % 4 = 0 then 'warn' else 'info' end,
  'Message ' || n
from checkpointd.jobs j
cross join generate_series(1, 12) n;

insert into checkpointd.steps (job, step_number, created_at, total_steps, train_loss, train_mean_token_accuracy,
  valid_loss, valid_mean_token_accuracy, id)
select j.key, n, j.created_at + n, $2, l.train, exp(-l.train), l.valid, exp(-l.valid), 'ftevent-step-' || n
from checkpointd.jobs j
cross join generate_series(1, $2) n
cross join lateral (
  select 0.2 + exp(-4.0 * n / $2) * (2 + sin(n * 7)) as train,
    case when n % 10 = 0 then 0.3 + exp(-4.0 * n / $2) end as valid) l
where j.id = any ($1)
"""


async def fill(sql: asyncpg.Connection, jobs: int, checkpoints: int) -> None:
    """Store so many jobs of three sources, each with so many checkpoints."""
    await sql.execute(_FILL.format(jobs=jobs, checkpoints=checkpoints))
    await sql.execute(_SUMMARISE)
    await sql.execute("vacuum analyze")


async def add_events(sql: asyncpg.Connection, jobs: Sequence[str], steps: int) -> None:
    """Give each job twelve messages, and these jobs so many steps."""
    for statement in _ADD_EVENTS.split(";"):
        arguments = [list(jobs), steps][: 2 if "$2" in statement else 0]
        await sql.execute(statement, *arguments)
    await sql.execute("vacuum analyze")
