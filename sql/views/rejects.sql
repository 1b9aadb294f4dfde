-- The items that could not be read.
create or replace view fine_tuning.rejects as
select sources.name as source, jobs.id as fine_tuning_job_id, rejects.reason, rejects.first_seen_at,
  rejects.last_seen_at, rejects.count, rejects.raw
from checkpointd.rejects
join checkpointd.jobs on jobs.key = rejects.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.rejects is
  'One row for each item that could not be read, wholly or in part, with its bytes. If a job has more than 1000 of '
  'them, one more row counts the others.';
comment on column fine_tuning.rejects.source is 'Source of the job.';
comment on column fine_tuning.rejects.fine_tuning_job_id is 'The provider''s id of the job whose list has the item.';
comment on column fine_tuning.rejects.reason is 'Why the item cannot be read.';
comment on column fine_tuning.rejects.first_seen_at is 'Time when the item was first read.';
comment on column fine_tuning.rejects.last_seen_at is
  'Time when a listing with the item was last compared. A listing that equals the one before is not compared.';
comment on column fine_tuning.rejects.count is
  'Number of compared listings that had the item; in a row that counts others, their number, added up over listings.';
comment on column fine_tuning.rejects.raw is
  'Bytes of the item, at most the first 64 KiB; null if they contain a secret, and in a row that counts others.';
