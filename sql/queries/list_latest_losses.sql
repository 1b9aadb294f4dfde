-- The jobs with the latest news, each with the losses of its last checkpoint. $1 how many.
select j.id, j.status, j.checkpoint_count, j.latest_step, c.train_loss, c.valid_loss
from fine_tuning.jobs j
join fine_tuning.freshness f on f.source = j.source and f.fine_tuning_job_id = j.id
left join fine_tuning.checkpoints c on c.source = j.source and c.fine_tuning_job_id = j.id and c.step_number = j.latest_step
order by f.last_change_at desc nulls last, j.id limit $1
