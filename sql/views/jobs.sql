-- Every job that was ever tracked.
create or replace view fine_tuning.jobs as
select jobs.id, sources.name as source, jobs.status, jobs.model, jobs.fine_tuned_model,
  checkpointd.unix_time(jobs.created_at, interval '1 day') as created_at,
  checkpointd.unix_time(jobs.finished_at, interval '1 day') as finished_at,
  checkpointd.unix_time(jobs.estimated_finish, interval '1 year') as estimated_finish,
  jobs.hyperparameters, jobs.error, jobs.trained_tokens, jobs.metadata, checkpointd.phase(jobs, polling) as phase,
  jobs.tracked_by, jobs.tracked_at, coalesce(summaries.checkpoint_count, 0) as checkpoint_count, summaries.latest_step,
  checkpointd.has_suspected_gap(jobs, summaries) as suspected_gap,
  checkpointd.with_point(checkpointd.as_jsonb(jobs.hyperparameters)) as hyperparameters_jsonb,
  checkpointd.with_point(checkpointd.as_jsonb(jobs.error)) as error_jsonb,
  checkpointd.with_point(checkpointd.as_jsonb(jobs.metadata)) as metadata_jsonb, polling.unstable_since,
  jobs.id as fine_tuning_job_id,
  checkpointd.as_number(checkpointd.as_jsonb(jobs.hyperparameters) ->> 'n_epochs') as n_epochs,
  checkpointd.as_number(checkpointd.as_jsonb(jobs.hyperparameters) ->> 'batch_size') as batch_size,
  checkpointd.as_number(checkpointd.as_jsonb(jobs.hyperparameters) ->> 'learning_rate_multiplier')
    as learning_rate_multiplier,
  nullif(checkpointd.as_jsonb(jobs.error) ->> 'code', '') as error_code,
  nullif(
    case jsonb_typeof(checkpointd.as_jsonb(jobs.error))
      when 'string' then checkpointd.as_jsonb(jobs.error) #>> '{}'
      else checkpointd.as_jsonb(jobs.error) ->> 'message'
    end,
    ''
  ) as error_message,
  -- A join would keep PostgreSQL from the best plan for queries that join this view with others (join_collapse_limit).
  (
    select min(models.shutdown_date)
    from checkpointd.models
    where models.source = jobs.source
      and models.id in (jobs.model, jobs.fine_tuned_model)
  ) as shutdown_date
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
join checkpointd.polling on polling.job = jobs.key
left join checkpointd.summaries on summaries.job = jobs.key;

comment on view fine_tuning.jobs is
  'One row for each job that was ever tracked, as the job list of the provider last showed it.';
comment on column fine_tuning.jobs.id is 'The provider''s id.';
comment on column fine_tuning.jobs.source is 'Source of the job.';
comment on column fine_tuning.jobs.status is
  'Status, in the provider''s vocabulary; null if no job record was received yet.';
comment on column fine_tuning.jobs.model is 'Base model.';
comment on column fine_tuning.jobs.fine_tuned_model is
  'Model that resulted from the job; null as long as there is none.';
comment on column fine_tuning.jobs.created_at is 'Time when the job was created, according to the provider.';
comment on column fine_tuning.jobs.finished_at is 'Time when the job finished, according to the provider.';
comment on column fine_tuning.jobs.estimated_finish is 'The provider''s last estimate of when the job will finish.';
comment on column fine_tuning.jobs.hyperparameters is
  'Hyperparameters as received; those of the job''s method (dpo, reinforcement) if the job has none of its own.';
comment on column fine_tuning.jobs.error is
  'Error as received. If there is none, providers send null, {} or an object of nulls.';
comment on column fine_tuning.jobs.trained_tokens is 'Number of billable tokens, according to the provider.';
comment on column fine_tuning.jobs.metadata is 'Metadata as received.';
comment on column fine_tuning.jobs.phase is
  'State of the job: active; settling (ended, but still polled); sealed (ended, and polling has stopped); missing '
  '(unknown to the provider); gone (missing for long, polled daily); forbidden; untracked.';
comment on column fine_tuning.jobs.tracked_by is
  'operator (the command or function track) or discovery (found in the job list).';
comment on column fine_tuning.jobs.tracked_at is 'Time when the job was last tracked.';
comment on column fine_tuning.jobs.checkpoint_count is 'Number of stored checkpoints.';
comment on column fine_tuning.jobs.latest_step is 'Largest training step of the stored checkpoints.';
comment on column fine_tuning.jobs.suspected_gap is
  'True if the provider may have dropped a checkpoint before it could be read: two neighbouring steps are more than '
  '1.5 times the usual distance apart, or the first checkpoints were more than three at once and began that much too '
  'late. The usual distance is the median without the last one, and must occur twice. Always false for reinforcement '
  'learning, whose steps are uneven.';
comment on column fine_tuning.jobs.hyperparameters_jsonb is
  'hyperparameters as jsonb, which can be compared and grouped; null if jsonb cannot store them.';
comment on column fine_tuning.jobs.error_jsonb is
  'error as jsonb, which can be compared and grouped; null if jsonb cannot store it.';
comment on column fine_tuning.jobs.metadata_jsonb is
  'metadata as jsonb, which can be compared and grouped; null if jsonb cannot store it.';
comment on column fine_tuning.jobs.unstable_since is
  'Time since when the provider''s list of the checkpoints is unstable: it has new ids, times or values at each '
  'request. Then only new steps, and metrics that were null, are stored, and nothing is marked as missing. Null if '
  'it is stable.';
comment on column fine_tuning.jobs.fine_tuning_job_id is
  'The same as id: other views have the id of the job under this name.';
comment on column fine_tuning.jobs.n_epochs is
  'Hyperparameter: number of epochs; null if it is not given, or not a number (auto).';
comment on column fine_tuning.jobs.batch_size is
  'Hyperparameter: examples per batch; null if it is not given, or not a number (auto).';
comment on column fine_tuning.jobs.learning_rate_multiplier is
  'Hyperparameter: factor of the usual learning rate; null if it is not given, or not a number (auto).';
comment on column fine_tuning.jobs.error_code is 'Code of the error; null if there is none.';
comment on column fine_tuning.jobs.error_message is
  'Message of the error, or the error itself if it is a text; null if there is none.';
comment on column fine_tuning.jobs.shutdown_date is
  'Day on which the provider shuts the base model or the fine-tuned model down, whichever is first, as its list of '
  'models last stated; null if it states none.';
