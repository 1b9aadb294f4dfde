-- What is tracked, or was, newest first.
select j.id, j.source, j.status, j.model, j.fine_tuned_model, j.phase, j.tracked_by, j.tracked_at, j.checkpoint_count, j.latest_step, j.suspected_gap
from fine_tuning.jobs j order by coalesce(j.created_at, j.tracked_at) desc, j.source, j.id
