-- The items that could not be read, wholly or in part.
create or replace view fine_tuning.rejects as
select sources.name as source, jobs.id as fine_tuning_job_id, rejects.reason, rejects.first_seen_at,
  rejects.last_seen_at, rejects.count, rejects.raw, rejects.is_stored, rejects.count as seen_count,
  checkpointd.as_text(rejects.raw) as raw_text
from checkpointd.rejects
left join checkpointd.jobs on jobs.key = rejects.job
join checkpointd.sources on sources.key = coalesce(jobs.source, rejects.source);

comment on view fine_tuning.rejects is
  'One row for each checkpoint, job record or event that could not be read, wholly or in part, with its bytes. If a '
  'job has more than 1000 of them, or a source has more than 1000 whose job is not known, one more row counts the '
  'others.';
comment on column fine_tuning.rejects.source is 'Source of the item.';
comment on column fine_tuning.rejects.fine_tuning_job_id is
  'The provider''s id of the job that the item belongs to; null for a job record whose job is not known.';
comment on column fine_tuning.rejects.reason is 'Why the item cannot be read, or which of its values are odd.';
comment on column fine_tuning.rejects.first_seen_at is 'Time when the item was first read.';
comment on column fine_tuning.rejects.last_seen_at is
  'Time when the item was last counted. A listing or job record that equals the one before is not counted again.';
comment on column fine_tuning.rejects.count is
  'Number of compared listings that had the item, or of readings of a job record; in a row that counts others, their '
  'number, added up.';
comment on column fine_tuning.rejects.raw is
  'Bytes of the item when it was first read, at most the first 64 KiB; null if they contain a secret, and in a row '
  'that counts others.';
comment on column fine_tuning.rejects.is_stored is
  'True if the item is stored without the values that the reason names; false if nothing of it is.';
comment on column fine_tuning.rejects.seen_count is
  'The same as count, for tools in which count is a metric of theirs.';
comment on column fine_tuning.rejects.raw_text is
  'raw as text. If the bytes are not UTF-8, each byte above 127 or of value 0 is written as \nnn, in octal.';
