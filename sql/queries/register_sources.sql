-- Make sure that the configured sources exist. $1 names, $2 kinds.
with given as (select g.name, g.kind from unnest($1::text[], $2::text[]) as g (name, kind)),
saved as (
  insert into checkpointd.sources (name, kind) select name, kind from given
  on conflict (name) do update set kind = excluded.kind where sources.kind <> excluded.kind
  returning key, name)
select key, name from saved
union
select s.key, s.name from checkpointd.sources s join given using (name)
