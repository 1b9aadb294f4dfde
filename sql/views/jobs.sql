-- Every job ever tracked.
create or replace view fine_tuning.jobs as
select j.id, s.name as source, j.status, j.model, j.fine_tuned_model,
  checkpointd.unix_time(j.created_at, interval '1 day') as created_at,
  checkpointd.unix_time(j.finished_at, interval '1 day') as finished_at,
  checkpointd.unix_time(j.estimated_finish, interval '1 year') as estimated_finish, j.hyperparameters, j.error, j.trained_tokens, j.metadata,
  checkpointd.phase(j, p) as phase, j.tracked_by, j.tracked_at, coalesce(w.checkpoint_count, 0) as checkpoint_count, w.latest_step,
  coalesce(w.is_uneven or w.came_in_a_burst, false) as suspected_gap
from checkpointd.jobs j
join checkpointd.sources s on s.key = j.source
join checkpointd.polling p on p.job = j.key
left join checkpointd.summaries w on w.job = j.key;
comment on view fine_tuning.jobs is 'One row a job that was ever tracked, as the provider''s job list last gave it.';
comment on column fine_tuning.jobs.id is 'The provider''s id.';
comment on column fine_tuning.jobs.source is 'The source it belongs to.';
comment on column fine_tuning.jobs.status is 'The provider''s word; null: no job record was received yet.';
comment on column fine_tuning.jobs.model is 'The base model.';
comment on column fine_tuning.jobs.fine_tuned_model is 'The resulting model; null until there is one.';
comment on column fine_tuning.jobs.created_at is 'By the provider.';
comment on column fine_tuning.jobs.finished_at is 'By the provider.';
comment on column fine_tuning.jobs.estimated_finish is 'By the provider: its last estimate.';
comment on column fine_tuning.jobs.hyperparameters is 'As received; those of its method (dpo, reinforcement) where the job has none of its own.';
comment on column fine_tuning.jobs.error is 'As received; providers send null, {} and objects of nulls for none.';
comment on column fine_tuning.jobs.trained_tokens is 'Billable tokens, by the provider.';
comment on column fine_tuning.jobs.metadata is 'As received.';
comment on column fine_tuning.jobs.phase is 'active, settling (ended, still polled), sealed (ended, polling stopped), missing (the provider does not know it), gone (missing for long, polled daily), forbidden, untracked.';
comment on column fine_tuning.jobs.tracked_by is 'operator (track) or discovery (found in the job list).';
comment on column fine_tuning.jobs.tracked_at is 'When it was last chosen.';
comment on column fine_tuning.jobs.checkpoint_count is 'How many of its checkpoints are known.';
comment on column fine_tuning.jobs.latest_step is 'The largest step of them.';
comment on column fine_tuning.jobs.suspected_gap is 'The provider may have dropped a checkpoint unseen: two neighbouring steps lie more than 1.5 times the usual distance (the median, of two middle ones the smaller) apart, or more than three checkpoints came between two polls, which stays so.';
