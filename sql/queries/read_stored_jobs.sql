-- Read what is stored of the tracked jobs among those of a job list.
-- $1 source: int, key
-- $2 ids: text[], the provider's ids of the listed jobs
--
-- is_missing is whether the provider did not find the checkpoints of the job when it was last polled.
select jobs.key, jobs.id, jobs.status, sha256(convert_to(jobs.payload::text, 'UTF8')) as digest,
  polling.error_class is not distinct from 'missing' and polling.sealed_at is null as is_missing
from checkpointd.jobs
join checkpointd.polling on polling.job = jobs.key
where jobs.source = $1::int
  and jobs.id = any ($2::text[])
  and jobs.untracked_at is null
