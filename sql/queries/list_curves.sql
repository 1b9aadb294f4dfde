-- List the loss curves of jobs, thinned out evenly: one row for each job that has checkpoints.
-- $1 source: text[], name
-- $2 id: text[], the provider's id of the job
-- $3 points: numeric, the most points of a curve
--
-- The validation loss is the one by which the best checkpoint is chosen.
select requested.n, max(points.epoch) as epoch, array_agg(points.step_number order by points.step_number) as steps,
  array_agg(points.train_loss order by points.step_number) as train_loss,
  array_agg(
    case best_checkpoints.rule when 'full_valid_loss' then points.full_valid_loss else points.valid_loss end
    order by points.step_number
  ) as valid_loss
from unnest($1::text[], $2::text[]) with ordinality as requested (source, id, n)
left join fine_tuning.best_checkpoints
  on best_checkpoints.source = requested.source and best_checkpoints.fine_tuning_job_id = requested.id
cross join lateral (
  select checkpoints.step_number, checkpoints.epoch, checkpoints.train_loss, checkpoints.valid_loss,
    checkpoints.full_valid_loss,
    row_number() over (order by checkpoints.step_number desc, checkpoints.id) - 1 as place,
    count(*) over () as whole
  from fine_tuning.checkpoints
  where checkpoints.source = requested.source
    and checkpoints.fine_tuning_job_id = requested.id
    and checkpoints.step_number is not null
) as points
where points.place % ceil(points.whole / $3::numeric) = 0
group by requested.n
order by requested.n
