-- The losses of jobs by step, thinned out evenly: a row for each job that has any. The validation loss is the one that the best
-- checkpoint is chosen by. $1 sources, $2 ids, $3 how many points at most.
select w.n, max(c.epoch) as epoch, array_agg(c.step_number order by c.step_number) as steps,
  array_agg(c.train_loss order by c.step_number) as train_loss,
  array_agg(case b.rule when 'full_valid_loss' then c.full_valid_loss else c.valid_loss end order by c.step_number) as valid_loss
from unnest($1::text[], $2::text[]) with ordinality w (source, id, n)
left join fine_tuning.best_checkpoints b on b.source = w.source and b.fine_tuning_job_id = w.id
cross join lateral (
  select c.step_number, c.epoch, c.train_loss, c.valid_loss, c.full_valid_loss,
    row_number() over (order by c.step_number desc, c.id) - 1 as place, count(*) over () as whole
  from fine_tuning.checkpoints c where c.source = w.source and c.fine_tuning_job_id = w.id) c
where c.place % ceil(c.whole / $3::numeric) = 0
group by w.n order by w.n
