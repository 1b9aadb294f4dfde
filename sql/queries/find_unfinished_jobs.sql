-- Find the newest tracked jobs of a source that have not ended according to the job list.
-- $1 source: int, key
-- $2 ended: text[], statuses of ended jobs, in lower case
-- $3 most: int, how many jobs
select jobs.id
from checkpointd.polling
join checkpointd.jobs on jobs.key = polling.job
where polling.source = $1::int
  and polling.sealed_at is null
  and (jobs.status is null or lower(jobs.status) <> all ($2::text[]))
  and jobs.untracked_at is null
order by jobs.created_at desc nulls first, jobs.key desc
limit $3::int
