-- The same values in long form: one row a checkpoint and metric.
create or replace view fine_tuning.checkpoint_metrics as
select c.id as checkpoint_id, s.name as source, j.id as fine_tuning_job_id, c.step_number,
  checkpointd.unix_time(c.created_at, interval '1 day') as created_at,
  m.metric, m.value
from checkpointd.jobs j
join checkpointd.sources s on s.key = j.source
join checkpointd.checkpoints c on c.job = j.key
cross join lateral (
  values ('step', c.step), ('train_loss', c.train_loss), ('train_mean_token_accuracy', c.train_mean_token_accuracy),
    ('valid_loss', c.valid_loss), ('valid_mean_token_accuracy', c.valid_mean_token_accuracy),
    ('full_valid_loss', c.full_valid_loss), ('full_valid_mean_token_accuracy', c.full_valid_mean_token_accuracy)
  union all
  select e.key, e.value::double precision from jsonb_each_text(c.extra_metrics) e) m (metric, value)
where m.value is not null;
comment on view fine_tuning.checkpoint_metrics is 'One row a checkpoint and metric that has a value: the long form of checkpoints, other numeric metrics included.';
comment on column fine_tuning.checkpoint_metrics.checkpoint_id is 'The checkpoint.';
comment on column fine_tuning.checkpoint_metrics.source is 'The source of the job.';
comment on column fine_tuning.checkpoint_metrics.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.checkpoint_metrics.step_number is 'The training step at which the checkpoint was made.';
comment on column fine_tuning.checkpoint_metrics.created_at is 'When the provider says that the checkpoint was made; null where that cannot be.';
comment on column fine_tuning.checkpoint_metrics.metric is 'The provider''s name of the metric.';
comment on column fine_tuning.checkpoint_metrics.value is 'Its last known value.';
