-- How fresh each tracked job is, the worst first.
select f.source, f.fine_tuning_job_id, j.phase, f.last_attempt_at, f.last_complete_at, f.last_success_at, f.last_change_at,
  f.next_poll_at, extract(epoch from f.lag)::float8 as lag_seconds, f.is_stale, f.consecutive_failures, f.error_class, f.last_error
from fine_tuning.freshness f
join fine_tuning.jobs j on j.source = f.source and j.id = f.fine_tuning_job_id
order by f.is_stale desc, f.consecutive_failures desc, f.lag desc nulls last, f.source, f.fine_tuning_job_id
