-- The feed: whoever remembers the last seq misses nothing.
create or replace view fine_tuning.changes as
select c.seq, c.at, c.poll as poll_id, c.kind, s.name as source, j.id as fine_tuning_job_id, c.checkpoint_id, c.field,
  c.old_value, c.new_value
from checkpointd.changes c
join checkpointd.jobs j on j.key = c.job
join checkpointd.sources s on s.key = j.source;
comment on view fine_tuning.changes is 'One row a change, append-only, in the order of commits: each new checkpoint, each changed value, each disappearance and return, each job status.';
comment on column fine_tuning.changes.seq is 'Grows in the order of commits; gaps mean nothing.';
comment on column fine_tuning.changes.at is 'When checkpointd wrote it.';
comment on column fine_tuning.changes.poll_id is 'The poll that brought it (polls.id); null for a status, which the job list brings.';
comment on column fine_tuning.changes.kind is 'new, changed, regressed (the provider sent null after a value; the value is kept), missing, returned, status.';
comment on column fine_tuning.changes.source is 'The source of the job.';
comment on column fine_tuning.changes.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.changes.checkpoint_id is 'The checkpoint; null for a status.';
comment on column fine_tuning.changes.field is 'The column of the view checkpoints (extra_metrics.NAME for any other metric); null: the whole checkpoint.';
comment on column fine_tuning.changes.old_value is 'As text, times in Unix seconds; null: none.';
comment on column fine_tuning.changes.new_value is 'As text, times in Unix seconds; null: none.';
