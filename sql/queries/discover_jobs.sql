-- Track the jobs of a job list that were never tracked before; an untracked job stays untracked.
-- $1 source: int, key
-- $2 id: text[], the provider's id of each listed job
with discovered as (
  insert into checkpointd.jobs (source, id, tracked_by)
  select $1::int, listed.id, 'discovery'
  from (select distinct id from unnest($2::text[]) as listed (id)) as listed
  where not exists (select from checkpointd.jobs where jobs.source = $1 and jobs.id = listed.id)
  order by listed.id
  on conflict do nothing
  returning key
)

insert into checkpointd.polling (job, source)
select key, $1
from discovered
order by key
returning job
