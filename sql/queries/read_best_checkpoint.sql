-- Read the objective of a job and its best checkpoint. No row: the job has no checkpoints.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
select step_number as best_step, rule as best_rule, direction as best_direction, set_for as best_set_for,
  value as best_value, covered as best_covered, checkpoints as best_candidates
from fine_tuning.best_checkpoints
where source = $1::text
  and fine_tuning_job_id = $2::text
