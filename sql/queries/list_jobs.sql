-- What is tracked, or was.
select j.id, j.source, j.status, j.model, j.fine_tuned_model, j.phase, j.tracked_by, j.tracked_at, j.checkpoint_count, j.latest_step, j.suspected_gap
from fine_tuning.jobs j order by j.source, j.tracked_at, j.id
