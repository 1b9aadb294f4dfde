-- List the jobs that changed last, each with the losses of its last checkpoint.
-- $1 count: bigint, the most rows to return
select jobs.id, jobs.status, jobs.checkpoint_count, jobs.latest_step, checkpoints.train_loss, checkpoints.valid_loss
from fine_tuning.jobs
join fine_tuning.freshness on freshness.source = jobs.source and freshness.fine_tuning_job_id = jobs.id
left join fine_tuning.checkpoints
  on checkpoints.source = jobs.source
  and checkpoints.fine_tuning_job_id = jobs.id
  and checkpoints.step_number = jobs.latest_step
order by freshness.last_change_at desc nulls last, jobs.id
limit $1
