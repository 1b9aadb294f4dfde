-- Polls worth a row.
create or replace view fine_tuning.polls as
select o.id, s.name as source, j.id as fine_tuning_job_id, o.first_at, o.last_at, o.count, o.outcome, o.error_class,
  o.items, o.new, o.changed
from checkpointd.polls o
join checkpointd.jobs j on j.key = o.job
join checkpointd.sources s on s.key = j.source;
comment on view fine_tuning.polls is 'One row for each poll that changed something and for each run of equal failures. Quiet polls are counted in freshness.quiet_polls.';
comment on column fine_tuning.polls.id is 'Private number of the row.';
comment on column fine_tuning.polls.source is 'The source of the job.';
comment on column fine_tuning.polls.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.polls.first_at is 'The first poll of the row.';
comment on column fine_tuning.polls.last_at is 'The last poll of the row.';
comment on column fine_tuning.polls.count is 'How many polls the row stands for.';
comment on column fine_tuning.polls.outcome is 'changed; partial (the listing broke off, what was read is stored); failed.';
comment on column fine_tuning.polls.error_class is 'Why it failed or broke off; null: it did not.';
comment on column fine_tuning.polls.items is 'Checkpoints that were read.';
comment on column fine_tuning.polls.new is 'Checkpoints that were stored.';
comment on column fine_tuning.polls.changed is 'Checkpoints that changed, went missing or returned.';
