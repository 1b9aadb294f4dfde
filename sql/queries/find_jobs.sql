-- Find jobs by the provider's ids.
-- $1 ids: text[], the provider's ids
-- $2 source: text, the present or a former name of their source; null for every source
select jobs.key, jobs.id, sources.key as source, sources.name as source_name, jobs.untracked_at is null as tracked
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
where jobs.id = any ($1::text[])
  and ($2::text is null or sources.name = $2 or $2 = any (sources.former_names))
