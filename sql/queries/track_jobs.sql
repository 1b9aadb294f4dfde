-- Track jobs, anew or again; those already tracked are left alone. $1 source, $2 ids.
with locked as materialized (   -- polling before jobs, as everybody
  select p.job from checkpointd.polling p join checkpointd.jobs j on j.key = p.job
  where j.source = $1::int and j.id = any ($2::text[]) order by p.job for no key update of p),
chosen as (
  insert into checkpointd.jobs (source, id, tracked_by)
  select $1::int, a.id, 'operator' from (select distinct id from unnest($2::text[]) as a (id)) a
  where (select count(*) from locked) >= 0 order by a.id
  on conflict (source, id) do update
  set untracked_at = null, tracked_at = clock_timestamp(), tracked_by = excluded.tracked_by
  where jobs.untracked_at is not null
  returning key)
insert into checkpointd.polling (job, source)
select key, $1 from chosen order by key
on conflict (job) do update
set next_poll_at = clock_timestamp(), sealed_at = null, equal_listings = 0, digest = null,
  poll_again = polling.lease_expires_at is not null
returning job
