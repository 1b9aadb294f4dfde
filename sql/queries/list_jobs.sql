-- List all jobs that are or were tracked, the newest first.
select id, source, status, model, fine_tuned_model, phase, tracked_by, tracked_at, checkpoint_count, latest_step,
  suspected_gap, unstable_since
from fine_tuning.jobs
order by coalesce(created_at, tracked_at) desc, source, id
