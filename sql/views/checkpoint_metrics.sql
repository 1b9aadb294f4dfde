-- The metrics of checkpoints in long form.
create or replace view fine_tuning.checkpoint_metrics as
select checkpoints.id as checkpoint_id, sources.name as source, jobs.id as fine_tuning_job_id, checkpoints.step_number,
  checkpointd.unix_time(checkpoints.created_at, interval '1 day') as created_at, metrics.metric, metrics.value
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
join checkpointd.checkpoints on checkpoints.job = jobs.key
cross join lateral (
  values
    ('step', checkpoints.step),
    ('train_loss', checkpoints.train_loss),
    ('train_mean_token_accuracy', checkpoints.train_mean_token_accuracy),
    ('valid_loss', checkpoints.valid_loss),
    ('valid_mean_token_accuracy', checkpoints.valid_mean_token_accuracy),
    ('full_valid_loss', checkpoints.full_valid_loss),
    ('full_valid_mean_token_accuracy', checkpoints.full_valid_mean_token_accuracy)
  union all
  select extra.key, extra.value::double precision
  from jsonb_each_text(checkpoints.extra_metrics) as extra
) as metrics (metric, value)
where metrics.value is not null;

comment on view fine_tuning.checkpoint_metrics is
  'One row for each checkpoint and each of its metrics that has a value, including extra metrics.';
comment on column fine_tuning.checkpoint_metrics.checkpoint_id is 'Id of the checkpoint.';
comment on column fine_tuning.checkpoint_metrics.source is 'Source of the job.';
comment on column fine_tuning.checkpoint_metrics.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.checkpoint_metrics.step_number is 'Training step at which the checkpoint was made.';
comment on column fine_tuning.checkpoint_metrics.created_at is
  'Time when the checkpoint was made, according to the provider; null if that is not known or implausible.';
comment on column fine_tuning.checkpoint_metrics.metric is 'The provider''s name of the metric.';
comment on column fine_tuning.checkpoint_metrics.value is 'Last known value of the metric.';
