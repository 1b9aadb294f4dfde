-- List the freshness of each tracked job, the worst first.
select freshness.source, freshness.fine_tuning_job_id, jobs.phase, freshness.last_attempt_at,
  freshness.last_complete_at, freshness.last_success_at, freshness.last_change_at, freshness.next_poll_at,
  extract(epoch from freshness.lag)::float8 as lag_seconds, freshness.is_stale, freshness.consecutive_failures,
  freshness.error_class, freshness.last_error, jobs.unstable_since
from fine_tuning.freshness
join fine_tuning.jobs on jobs.source = freshness.source and jobs.id = freshness.fine_tuning_job_id
order by freshness.is_stale desc, freshness.consecutive_failures desc, freshness.lag desc nulls last,
  freshness.source, freshness.fine_tuning_job_id
