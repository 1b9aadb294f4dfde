-- A job with its freshness, its best checkpoint and, where its last complete listing had some, all that could not be read of it. $1 source, $2 id.
select now() as at, j.id, j.source, j.status, j.model, j.fine_tuned_model, j.created_at, j.finished_at, j.estimated_finish,
  j.hyperparameters, j.error, j.trained_tokens, j.phase, j.tracked_by, j.tracked_at, j.checkpoint_count, j.latest_step,
  j.suspected_gap, f.last_attempt_at, f.last_complete_at, f.last_success_at, f.last_change_at, f.next_poll_at, f.is_stale,
  f.consecutive_failures, f.last_error, b.checkpoint_id as best_id, b.step_number as best_step,
  b.fine_tuned_model_checkpoint as best_model, b.rule as best_rule, b.value as best_value, b.covered as best_covered,
  b.checkpoints as best_candidates, b.missing_since as best_missing_since,
  case when f.last_success_at >= f.last_complete_at then 0 else r.items end as rejects, r.reason as reject_reason,
  r.last_seen_at as reject_seen_at
from fine_tuning.jobs j
left join fine_tuning.freshness f on f.source = j.source and f.fine_tuning_job_id = j.id
left join fine_tuning.best_checkpoints b on b.source = j.source and b.fine_tuning_job_id = j.id
cross join lateral (
  select count(*) as items, max(r.last_seen_at) as last_seen_at, (array_agg(r.reason order by r.last_seen_at desc))[1] as reason
  from fine_tuning.rejects r where r.source = j.source and r.fine_tuning_job_id = j.id) r
where j.source = $1::text and j.id = $2::text
