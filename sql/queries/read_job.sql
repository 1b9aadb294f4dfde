-- Read a job with its freshness, its source's state, its best checkpoint, and its rejects of which nothing is stored.
-- $1 source: text, name
-- $2 id: text, the provider's id
--
-- Documents of more than 64 kB are not read, and texts are cut off after 1000 characters, so that a page stays small
-- whatever providers send. `rejects` is 0 if the last complete listing had none, even if earlier listings had some.
select now() as at, jobs.id, jobs.source, left(jobs.status, 1000) as status, left(jobs.model, 1000) as model,
  left(jobs.fine_tuned_model, 1000) as fine_tuned_model, jobs.created_at, jobs.finished_at, jobs.estimated_finish,
  case
    when pg_column_size(jobs.hyperparameters) <= 65536 and octet_length(jobs.hyperparameters::text) <= 65536
      then jobs.hyperparameters
    when jobs.hyperparameters is not null
      then '{"hyperparameters": "too large to show: read them from fine_tuning.jobs"}'::json
  end as hyperparameters,
  case
    when pg_column_size(jobs.error) <= 65536 and octet_length(jobs.error::text) <= 65536 then jobs.error
    when jobs.error is not null then '{"message": "too large to show: read it from fine_tuning.jobs"}'::json
  end as error, jobs.trained_tokens, jobs.phase,
  jobs.tracked_by, jobs.tracked_at, jobs.checkpoint_count, jobs.latest_step, jobs.suspected_gap, jobs.unstable_since,
  jobs.shutdown_date,
  freshness.last_attempt_at, freshness.last_complete_at, freshness.last_success_at, freshness.last_change_at,
  freshness.next_poll_at, freshness.is_stale, freshness.consecutive_failures, freshness.last_error,
  best_checkpoints.checkpoint_id as best_id, best_checkpoints.step_number as best_step,
  left(best_checkpoints.deploy_as, 1000) as best_deploy_as, best_checkpoints.rule as best_rule,
  best_checkpoints.value as best_value, best_checkpoints.covered as best_covered,
  best_checkpoints.direction as best_direction, best_checkpoints.set_for as best_set_for,
  best_checkpoints.checkpoints as best_candidates, best_checkpoints.missing_since as best_missing_since,
  best_checkpoints.is_expired as best_is_expired,
  case when freshness.last_success_at >= freshness.last_complete_at then 0 else rejected.items end as rejects,
  rejected.reason as reject_reason, rejected.last_seen_at as reject_seen_at, sources.state as source_state,
  sources.last_error as source_error
from fine_tuning.jobs
join fine_tuning.sources on sources.name = jobs.source
left join fine_tuning.freshness on freshness.source = jobs.source and freshness.fine_tuning_job_id = jobs.id
left join fine_tuning.best_checkpoints
  on best_checkpoints.source = jobs.source and best_checkpoints.fine_tuning_job_id = jobs.id
cross join lateral (
  select count(*) as items, max(rejects.last_seen_at) as last_seen_at,
    (array_agg(rejects.reason order by rejects.last_seen_at desc))[1] as reason
  from fine_tuning.rejects
  where rejects.source = jobs.source
    and rejects.fine_tuning_job_id = jobs.id
    and not rejects.is_stored
) as rejected
where jobs.source = $1::text
  and jobs.id = $2::text
