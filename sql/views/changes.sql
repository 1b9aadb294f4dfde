-- The feed of changes. A reader that stores the last seq that it has read, and continues after it, misses no change.
create or replace view fine_tuning.changes as
select changes.seq, changes.at, changes.poll as poll_id, changes.kind, sources.name as source,
  jobs.id as fine_tuning_job_id, changes.checkpoint_id, changes.field, changes.old_value, changes.new_value
from checkpointd.changes
join checkpointd.jobs on jobs.key = changes.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.changes is
  'One row for each change, append-only, in the order of commits: each new checkpoint, each changed value, each '
  'checkpoint that disappears or returns, each new status of a job.';
comment on column fine_tuning.changes.seq is
  'Increases in the order of commits. Gaps between the numbers have no meaning.';
comment on column fine_tuning.changes.at is 'Time when checkpointd stored the change.';
comment on column fine_tuning.changes.poll_id is
  'Poll that found the change (polls.id); null for a status, which is found in the job list.';
comment on column fine_tuning.changes.kind is
  'new; changed; regressed (the provider sent null after a value, and the value is kept); missing; returned; status.';
comment on column fine_tuning.changes.source is 'Source of the job.';
comment on column fine_tuning.changes.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.changes.checkpoint_id is 'Id of the checkpoint; null for a status.';
comment on column fine_tuning.changes.field is
  'Column of the view checkpoints, or extra_metrics.NAME for another metric; null if the whole checkpoint is meant.';
comment on column fine_tuning.changes.old_value is
  'Value before the change, as text (times in Unix seconds); null if there was none.';
comment on column fine_tuning.changes.new_value is
  'Value after the change, as text (times in Unix seconds); null if there is none.';
