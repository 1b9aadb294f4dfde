-- Insert the configured sources that are not stored yet, update their kinds, and return the keys of all.
-- $1 name: text[]
-- $2 kind: text[], openai, azure or compatible
--
-- A former name means the source that was renamed, unless that one is configured under its new name or a later former
-- name, too, or another source has got the name since. So no two names mean the same source, which would be polled
-- twice.
--
-- Daemons run it again and again, so it locks no row if there is nothing to do.
with configured as (
  select source.name, source.kind, coalesce(renamed.name, source.name) as stored_name
  from unnest($1::text[], $2::text[]) as source (name, kind)
  left join (
    select distinct on (sources.key) sources.name, former.name as configured_name
    from checkpointd.sources
    cross join unnest(sources.former_names) with ordinality as former (name, position)
    where sources.name <> all ($1)
      and former.name = any ($1)
      and not exists (select from checkpointd.sources as own where own.name = former.name)
    order by sources.key, former.position desc
  ) as renamed on renamed.configured_name = source.name
),

saved as (
  insert into checkpointd.sources (name, kind)
  select stored_name, kind
  from configured
  where not exists (
    select from checkpointd.sources where sources.name = configured.stored_name and sources.kind = configured.kind
  )
  on conflict (name) do update
  set kind = excluded.kind
  returning key, name
),

freed as (
  update checkpointd.sources
  set former_names = array(
    select former.name
    from unnest(sources.former_names) as former (name)
    where former.name not in (select name from saved)
  )
  from saved
  where saved.name = any (sources.former_names)
)

select saved.key, configured.name
from saved
join configured on configured.stored_name = saved.name
union
select sources.key, configured.name
from checkpointd.sources
join configured on configured.stored_name = sources.name
