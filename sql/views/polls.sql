-- The polls that changed something, and those that failed.
create or replace view fine_tuning.polls as
select polls.id, sources.name as source, jobs.id as fine_tuning_job_id, polls.first_at, polls.last_at, polls.count,
  polls.outcome, polls.error_class, polls.items, polls.new, polls.changed, polls.count as poll_count
from checkpointd.polls
join checkpointd.jobs on jobs.key = polls.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.polls is
  'One row for each poll that changed something, and for each run of equal failures. Quiet polls have no row: they '
  'are counted in freshness.quiet_polls.';
comment on column fine_tuning.polls.id is 'Key of the row.';
comment on column fine_tuning.polls.source is 'Source of the job.';
comment on column fine_tuning.polls.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.polls.first_at is 'Time of the first poll of the row.';
comment on column fine_tuning.polls.last_at is 'Time of the last poll of the row.';
comment on column fine_tuning.polls.count is 'Number of polls that the row stands for.';
comment on column fine_tuning.polls.outcome is
  'changed; partial (the listing is incomplete, and what was read is stored); failed.';
comment on column fine_tuning.polls.error_class is 'Class of the failure; null if the listing is complete.';
comment on column fine_tuning.polls.items is 'Number of checkpoints that the last poll of the row read.';
comment on column fine_tuning.polls.new is 'Number of checkpoints that were stored.';
comment on column fine_tuning.polls.changed is 'Number of checkpoints that changed, went missing or returned.';
comment on column fine_tuning.polls.poll_count is 'The same as count, for tools in which count is a metric of theirs.';
