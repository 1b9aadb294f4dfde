-- Insert the configured sources that are not stored yet, update their kinds, and return the keys of all.
-- $1 name: text[]
-- $2 kind: text[], openai, azure or compatible
with configured as (
  select source.name, source.kind
  from unnest($1::text[], $2::text[]) as source (name, kind)
),

saved as (
  insert into checkpointd.sources (name, kind)
  select name, kind
  from configured
  on conflict (name) do update
  set kind = excluded.kind
  where sources.kind <> excluded.kind
  returning key, name
)

select key, name
from saved
union
select sources.key, sources.name
from checkpointd.sources
join configured on configured.name = sources.name
