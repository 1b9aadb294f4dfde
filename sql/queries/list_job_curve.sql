-- List the metrics of a job's checkpoints by step, thinned out evenly; the last and the best one are always included.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
-- $3 points: numeric, the most checkpoints, not counting the best one
-- $4 name: text[], the metrics to read that have no column of their own; `extras` has them in this order
--
-- The time is that of the step's event, because providers report steps and checkpoints with different delays.
select points.id, points.step_number, points.epoch, points.missing_since is not null as is_missing,
  points.id is not distinct from best_checkpoints.checkpoint_id as is_best,
  coalesce(steps.created_at, points.created_at) as created_at, points.train_loss, points.valid_loss,
  points.full_valid_loss, points.train_mean_token_accuracy, points.valid_mean_token_accuracy,
  points.full_valid_mean_token_accuracy, array(
    select (points.extra_metrics ->> extra.name)::float8
    from unnest($4::text[]) with ordinality as extra (name, position)
    order by extra.position
  ) as extras
from (
  select checkpoints.*,
    row_number() over (order by checkpoints.step_number desc, checkpoints.id) - 1 as place,
    count(*) over () as whole
  from fine_tuning.checkpoints
  where checkpoints.source = $1::text
    and checkpoints.fine_tuning_job_id = $2::text
    and checkpoints.step_number is not null
) as points
left join fine_tuning.best_checkpoints
  on best_checkpoints.source = $1 and best_checkpoints.fine_tuning_job_id = $2
left join fine_tuning.steps
  on steps.source = $1 and steps.fine_tuning_job_id = $2 and steps.step_number = points.step_number
where points.place % ceil(points.whole / $3::numeric) = 0
  or points.id = best_checkpoints.checkpoint_id
order by points.step_number, points.id
