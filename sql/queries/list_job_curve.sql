-- The metrics of a job by step, thinned out evenly, the last and the best always there. $1 source, $2 id, $3 how many steps at most.
select c.id, c.step_number, c.epoch, c.missing_since is not null as is_missing, c.id is not distinct from b.checkpoint_id as is_best,
  c.train_loss, c.valid_loss, c.full_valid_loss, c.train_mean_token_accuracy, c.valid_mean_token_accuracy,
  c.full_valid_mean_token_accuracy
from (
  select c.*, row_number() over (order by c.step_number desc, c.id) - 1 as place, count(*) over () as whole
  from fine_tuning.checkpoints c where c.source = $1::text and c.fine_tuning_job_id = $2::text) c
left join fine_tuning.best_checkpoints b on b.source = $1 and b.fine_tuning_job_id = $2
where c.place % ceil(c.whole / $3::numeric) = 0 or c.id = b.checkpoint_id
order by c.step_number, c.id
