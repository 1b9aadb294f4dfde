-- Every job that was ever tracked.
create or replace view fine_tuning.jobs as
select jobs.id, sources.name as source, jobs.status, jobs.model, jobs.fine_tuned_model,
  checkpointd.unix_time(jobs.created_at, interval '1 day') as created_at,
  checkpointd.unix_time(jobs.finished_at, interval '1 day') as finished_at,
  checkpointd.unix_time(jobs.estimated_finish, interval '1 year') as estimated_finish,
  jobs.hyperparameters, jobs.error, jobs.trained_tokens, jobs.metadata, checkpointd.phase(jobs, polling) as phase,
  jobs.tracked_by, jobs.tracked_at, coalesce(summaries.checkpoint_count, 0) as checkpoint_count, summaries.latest_step,
  coalesce(summaries.is_uneven or summaries.came_in_a_burst, false) as suspected_gap,
  checkpointd.as_jsonb(jobs.hyperparameters) as hyperparameters_jsonb, checkpointd.as_jsonb(jobs.error) as error_jsonb,
  checkpointd.as_jsonb(jobs.metadata) as metadata_jsonb
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
  '1.5 times the usual distance apart (the median, or the smaller of the two middle ones), or more than three new '
  'checkpoints came in one poll. After the latter it stays true.';
comment on column fine_tuning.jobs.hyperparameters_jsonb is
  'hyperparameters as jsonb, which can be compared and grouped; null if jsonb cannot store them.';
comment on column fine_tuning.jobs.error_jsonb is
  'error as jsonb, which can be compared and grouped; null if jsonb cannot store it.';
comment on column fine_tuning.jobs.metadata_jsonb is
  'metadata as jsonb, which can be compared and grouped; null if jsonb cannot store it.';
