-- Find every tracked job of the given sources.
-- $1 sources: int[], keys
select jobs.key, jobs.id, sources.key as source, sources.name as source_name, true as tracked
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
where jobs.source = any ($1::int[])
  and jobs.untracked_at is null
