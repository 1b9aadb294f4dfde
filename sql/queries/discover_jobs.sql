-- Track jobs that the job list shows for the first time; one that was untracked stays so. $1 source, $2 ids.
with found as (
  insert into checkpointd.jobs (source, id, tracked_by)
  select $1::int, a.id, 'discovery' from (select distinct id from unnest($2::text[]) as a (id)) a
  where not exists (select from checkpointd.jobs j where j.source = $1 and j.id = a.id) order by a.id
  on conflict do nothing
  returning key)
insert into checkpointd.polling (job, source) select key, $1 from found order by key
returning job
