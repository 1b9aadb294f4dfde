-- Save when a source shuts models down. Only what differs is written. Returns how many models were left out.
-- $1 source: int, key
-- $2 id: text[], names of models
-- $3 shutdown_date: date[], null if the provider states null: the model is not shut down
-- $4 most: bigint, how many models of the source are stored
--
-- A model that is not listed any more keeps its date.
with listed as materialized (
  select distinct on (given.id) given.id, given.shutdown_date, models.id is not null as is_known
  from unnest($2::text[], $3::date[]) with ordinality as given (id, shutdown_date, position)
  left join checkpointd.models on models.source = $1::int and models.id = given.id
  where given.shutdown_date is not null
    or models.id is not null
  order by given.id, given.position desc
),

placed as (
  select id, shutdown_date,
    is_known
      or row_number() over (partition by is_known order by id)
        + (select count(*) from checkpointd.models where models.source = $1) <= $4::bigint as fits
  from listed
),

saved as (
  insert into checkpointd.models (source, id, shutdown_date)
  select $1, id, shutdown_date
  from placed
  where fits
  on conflict (source, id) do update
  set shutdown_date = excluded.shutdown_date
  where models.shutdown_date is distinct from excluded.shutdown_date
)

select count(*) as left_out
from placed
where not fits
