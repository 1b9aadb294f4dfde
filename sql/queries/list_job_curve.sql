-- List the metrics of a job by step, thinned out evenly; the last and the best checkpoint are always included.
-- `objective` is the metric of the objective, if it has no column of its own.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
-- $3 points: numeric, the most steps, not counting the best one
select points.id, points.step_number, points.epoch, points.missing_since is not null as is_missing,
  points.id is not distinct from best_checkpoints.checkpoint_id as is_best, points.train_loss, points.valid_loss,
  points.full_valid_loss, points.train_mean_token_accuracy, points.valid_mean_token_accuracy,
  points.full_valid_mean_token_accuracy,
  (points.extra_metrics ->> best_checkpoints.rule)::double precision as objective
from (
  select checkpoints.*,
    row_number() over (order by checkpoints.step_number desc, checkpoints.id) - 1 as place,
    count(*) over () as whole
  from fine_tuning.checkpoints
  where checkpoints.source = $1::text
    and checkpoints.fine_tuning_job_id = $2::text
) as points
left join fine_tuning.best_checkpoints
  on best_checkpoints.source = $1 and best_checkpoints.fine_tuning_job_id = $2
where points.place % ceil(points.whole / $3::numeric) = 0
  or points.id = best_checkpoints.checkpoint_id
order by points.step_number, points.id
