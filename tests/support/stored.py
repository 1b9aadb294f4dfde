"""Fills a database by SQL with what daemons would have stored in months: many jobs, or long jobs."""

import asyncpg

_SOURCE = "insert into checkpointd.sources (name, kind) values ('large', 'openai')"

# Job n is running if n is divisible by 50, else failed if by 33, else cancelled if by 21, else succeeded.
_JOBS = """
insert into checkpointd.jobs (source, id, tracked_by, status, model, created_at, finished_at, hyperparameters,
  fine_tuned_model, trained_tokens)
select s.key, 'ftjob-' || substr(md5(n::text), 1, 24), 'discovery',
  case when n % 50 = 0 then 'running' when n % 33 = 0 then 'failed' when n % 21 = 0 then 'cancelled'
    else 'succeeded' end,
  (array['gpt-4o-mini-2024-07-18', 'gpt-4.1-mini-2025-04-14', 'gpt-4.1-nano-2025-04-14'])[1 + n % 3],
  1750000000 + n * 60, case when n % 50 > 0 then 1750003600 + n * 60 end, json_build_object('n_epochs', $2::int),
  case when n % 50 > 0 then 'ft:gpt-4o-mini-2024-07-18:acme:tone:' || substr(md5('m' || n), 1, 8) end, n * 1000
from generate_series(1, $1::int) n, checkpointd.sources s where s.name = 'large'"""

# Every 97th job fails and is stale. The other jobs are sealed, except the running ones.
_POLLING = """
insert into checkpointd.polling (job, source, last_attempt_at, last_complete_at, last_success_at, gap_s, sealed_at,
  next_poll_at, failures, error_class, last_error)
select j.key, j.source, now(), case when is_failing then now() - interval '2 hours' else now() end, now(), 120,
  case when is_sealed then now() end, case when is_sealed then 'infinity' else now() end,
  case when is_failing then 4 else 0 end, case when is_failing then 'network' end,
  case when is_failing then 'no connection: refused' end
from checkpointd.jobs j
join checkpointd.sources s on s.key = j.source and s.name = 'large'
cross join lateral (
  select j.key % 97 = 0 as is_failing, j.key % 97 > 0 and j.status <> 'running' as is_sealed) k"""

# Losses fall with the step; the validation loss of some jobs rises again. The last three checkpoints are not missing.
_CHECKPOINTS = """
insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, train_loss,
  train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy,
  missing_since, payload)
select j.key, 'ftckpt_' || j.key || '_' || n, 40 * n, j.created_at + n,
  'ft:gpt-4o-mini-2024-07-18:acme:tone:' || substr(md5(j.key || '.' || n), 1, 8) || ':ckpt-step-' || 40 * n,
  l.train, exp(-0.15 * l.train), l.valid, exp(-0.15 * l.valid), l.valid * 1.01, exp(-0.15 * l.valid * 1.01),
  case when n < $1 - 2 then now() end, '{}'
from checkpointd.jobs j
join checkpointd.sources s on s.key = j.source and s.name = 'large'
cross join generate_series(1, $1::int) n
cross join lateral (
  select 0.2 + 2 * exp(-4.0 * n / $1) * (1 + 0.1 * sin(n * 7 + j.key)) as train,
    0.3 + 1.9 * exp(-4.0 * n / $1) * (1 + 0.05 * sin(n * 5 + j.key))
      + (j.key % 5) * 0.1 * (n::float / $1) ^ 2 as valid) l"""

_CHANGES_AND_SUMMARIES = """
insert into checkpointd.changes (job, kind, checkpoint_id) select c.job, 'new', c.id from checkpointd.checkpoints c;
select checkpointd.summarise(array_agg(key), array_agg(false)) from checkpointd.jobs;
analyze"""


async def fill(sql: asyncpg.Connection, jobs: int, checkpoints: int) -> None:
    """Store so many jobs of the source `large`, with so many checkpoints each."""
    await sql.execute(_SOURCE)
    await sql.execute(_JOBS, jobs, checkpoints)
    await sql.execute(_POLLING)
    await sql.execute(_CHECKPOINTS, checkpoints)
    await sql.execute(_CHANGES_AND_SUMMARIES)
