-- The step curves, from the events of the jobs.
create or replace view fine_tuning.steps as
select sources.name as source, jobs.id as fine_tuning_job_id, steps.step_number,
  steps.step_number::double precision as step, steps.train_loss, steps.train_mean_token_accuracy, steps.valid_loss,
  steps.valid_mean_token_accuracy, steps.full_valid_loss, steps.full_valid_mean_token_accuracy,
  checkpointd.with_point(steps.extra_metrics) as extra_metrics, steps.total_steps,
  checkpointd.unix_time(steps.created_at, interval '1 day') as created_at,
  case sources.kind when 'together' then 'metrics' else 'event' end as origin,
  case when sources.kind <> 'together' then steps.id end as event_id
from checkpointd.steps
join checkpointd.jobs on jobs.key = steps.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.steps is
  'One row for each training step of a job, with the metrics of the newest event that has it. A metric that a step '
  'does not report is null.';
comment on column fine_tuning.steps.source is 'Source of the job.';
comment on column fine_tuning.steps.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.steps.step_number is 'Training step, unique within a job.';
comment on column fine_tuning.steps.step is 'Metric: step_number as a number, as it stands among the metrics.';
comment on column fine_tuning.steps.train_loss is 'Metric; null if the step does not report it.';
comment on column fine_tuning.steps.train_mean_token_accuracy is 'Metric; null if the step does not report it.';
comment on column fine_tuning.steps.valid_loss is
  'Metric, measured on a sample of the validation file; null if the step does not report it, as most do not.';
comment on column fine_tuning.steps.valid_mean_token_accuracy is
  'Metric, measured on a sample of the validation file; null if the step does not report it.';
comment on column fine_tuning.steps.full_valid_loss is
  'Metric, measured on the whole validation file; null if the step does not report it. Usually the last step of an '
  'epoch or of the job does.';
comment on column fine_tuning.steps.full_valid_mean_token_accuracy is
  'Metric, measured on the whole validation file; null if the step does not report it.';
comment on column fine_tuning.steps.extra_metrics is
  'All other numbers of the step, such as rewards, as an object of numbers by name; null if there are none.';
comment on column fine_tuning.steps.total_steps is
  'Number of steps of the whole training, as the provider stated it with this step; null if it did not.';
comment on column fine_tuning.steps.created_at is
  'Time of the event, according to the provider; null if that is not known or implausible. Several steps can have the '
  'same: order by step_number.';
comment on column fine_tuning.steps.origin is
  'Where the values are from: event (an event of the job), or metrics (Together''s list of the metrics of a job). The '
  'metrics of checkpoints are not among them: see the view checkpoints.';
comment on column fine_tuning.steps.event_id is
  'The provider''s id of the event; null for origin metrics, which have no ids.';
