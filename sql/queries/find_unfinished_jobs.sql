-- Find the tracked jobs of a source that have not ended according to the job list, and those that are missing.
-- $1 source: int, key
-- $2 ended: text[], statuses of ended jobs, in lower case
select jobs.id, polling.error_class is not distinct from 'missing' as is_missing
from checkpointd.polling
join checkpointd.jobs on jobs.key = polling.job
where polling.source = $1::int
  and polling.sealed_at is null
  and (jobs.status is null or lower(jobs.status) <> all ($2::text[]) or polling.error_class = 'missing')
  and jobs.untracked_at is null
