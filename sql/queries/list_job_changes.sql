-- List the latest changes of a job before a given one.
-- $1 source: text, name
-- $2 id: text, the provider's id of the job
-- $3 before: bigint, all rows have a smaller seq
-- $4 count: bigint, the most rows to return
--
-- Values are cut off after 1000 characters, so that a page stays small whatever providers send.
select changes.seq, changes.at, changes.kind, changes.checkpoint_id, changes.field,
  left(changes.old_value, 1000) as old_value,
  left(changes.new_value, 1000) as new_value, checkpoints.step_number
from fine_tuning.changes
left join fine_tuning.checkpoints
  on checkpoints.source = changes.source
  and checkpoints.fine_tuning_job_id = changes.fine_tuning_job_id
  and checkpoints.id = changes.checkpoint_id
where changes.source = $1::text
  and changes.fine_tuning_job_id = $2::text
  and changes.seq < $3
order by changes.seq desc
limit $4
