-- Read the best step of a job's curve and the nearest checkpoint that can be deployed. No row: there are no steps.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
select step_number, left(metric, 300) as metric, direction, value, covered, nearest_step_number, distance_steps,
  left(deploy_as, 1000) as deploy_as
from fine_tuning.best_steps
where source = $1::text
  and fine_tuning_job_id = $2::text
  and step_number is not null
