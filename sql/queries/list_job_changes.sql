-- The latest changes of a job before one of them. $1 source, $2 id, $3 the seq of that one, $4 how many.
select c.seq, c.at, c.kind, c.checkpoint_id, c.field, c.old_value, c.new_value, k.step_number
from fine_tuning.changes c
left join fine_tuning.checkpoints k on k.source = c.source and k.fine_tuning_job_id = c.fine_tuning_job_id and k.id = c.checkpoint_id
where c.source = $1::text and c.fine_tuning_job_id = $2::text and c.seq < $3
order by c.seq desc limit $4
