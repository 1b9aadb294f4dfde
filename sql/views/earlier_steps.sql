-- The values of repeated steps that the view steps no longer shows.
create or replace view fine_tuning.earlier_steps as
select sources.name as source, jobs.id as fine_tuning_job_id, earlier_steps.step_number, earlier_steps.train_loss,
  earlier_steps.train_mean_token_accuracy, earlier_steps.valid_loss, earlier_steps.valid_mean_token_accuracy,
  earlier_steps.full_valid_loss, earlier_steps.full_valid_mean_token_accuracy,
  checkpointd.with_point(earlier_steps.extra_metrics) as extra_metrics, earlier_steps.total_steps,
  checkpointd.unix_time(earlier_steps.created_at, interval '1 day') as created_at,
  'event'::text as origin, earlier_steps.id as event_id, earlier_steps.stored_at
from checkpointd.earlier_steps
join checkpointd.jobs on jobs.key = earlier_steps.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.earlier_steps is
  'One row for each event of a step that a newer event of the same step replaces in steps (a resumed job repeats '
  'steps), and for the former values of an event that changed.';
comment on column fine_tuning.earlier_steps.source is 'Source of the job.';
comment on column fine_tuning.earlier_steps.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.earlier_steps.step_number is 'Training step.';
comment on column fine_tuning.earlier_steps.train_loss is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.train_mean_token_accuracy is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.valid_loss is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.valid_mean_token_accuracy is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.full_valid_loss is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.full_valid_mean_token_accuracy is 'Metric, as in steps.';
comment on column fine_tuning.earlier_steps.extra_metrics is 'All other numbers, as in steps.';
comment on column fine_tuning.earlier_steps.total_steps is 'Number of steps of the whole training, as in steps.';
comment on column fine_tuning.earlier_steps.created_at is 'Time of the event, as in steps.';
comment on column fine_tuning.earlier_steps.origin is 'Where the values are from, as in steps.';
comment on column fine_tuning.earlier_steps.event_id is 'The provider''s id of the event.';
comment on column fine_tuning.earlier_steps.stored_at is 'Time when checkpointd stored the row here.';
