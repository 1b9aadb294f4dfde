-- Find jobs by the provider's ids, in every source.
-- $1 ids: text[], the provider's ids
select jobs.key, jobs.id, sources.key as source, sources.name as source_name, jobs.untracked_at is null as tracked
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
where jobs.id = any ($1::text[])
