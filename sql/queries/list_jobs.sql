-- List all jobs that are or were tracked, the newest first, with their objectives, best checkpoints and open findings.
select jobs.id, jobs.source, jobs.status, jobs.model, jobs.fine_tuned_model, jobs.phase, jobs.tracked_by,
  jobs.tracked_at, jobs.checkpoint_count, jobs.latest_step, jobs.suspected_gap, jobs.unstable_since,
  best_checkpoints.step_number as best_step, best_checkpoints.rule as best_rule,
  best_checkpoints.direction as best_direction, best_checkpoints.set_for as best_set_for,
  best_checkpoints.value as best_value, best_checkpoints.covered as best_covered,
  best_checkpoints.checkpoints as best_candidates, coalesce(found.kinds, '{}') as findings
from fine_tuning.jobs
left join fine_tuning.best_checkpoints
  on best_checkpoints.source = jobs.source and best_checkpoints.fine_tuning_job_id = jobs.id
left join (
  select source, fine_tuning_job_id, array_agg(distinct kind order by kind) as kinds
  from fine_tuning.findings
  where until is null
  group by source, fine_tuning_job_id
) as found on found.source = jobs.source and found.fine_tuning_job_id = jobs.id
order by coalesce(jobs.created_at, jobs.tracked_at) desc, jobs.source, jobs.id
