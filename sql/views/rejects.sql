-- What could not be read.
create or replace view fine_tuning.rejects as
select s.name as source, j.id as fine_tuning_job_id, r.reason, r.first_seen_at, r.last_seen_at, r.count, r.raw
from checkpointd.rejects r
join checkpointd.jobs j on j.key = r.job
join checkpointd.sources s on s.key = j.source;
comment on view fine_tuning.rejects is 'One row for each item that could not be read, wholly or in part, with its bytes.';
comment on column fine_tuning.rejects.source is 'The source of the job.';
comment on column fine_tuning.rejects.fine_tuning_job_id is 'The job in whose list it stood.';
comment on column fine_tuning.rejects.reason is 'What is wrong with it.';
comment on column fine_tuning.rejects.first_seen_at is 'When it was first read.';
comment on column fine_tuning.rejects.last_seen_at is 'When a listing with it was last compared; an equal listing is not compared again.';
comment on column fine_tuning.rejects.count is 'In how many compared listings it stood.';
comment on column fine_tuning.rejects.raw is 'Its bytes, the first 64 KiB; null where a secret stood in them.';
