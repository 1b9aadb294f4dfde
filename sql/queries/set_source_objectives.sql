-- Set the objectives of sources, and return the keys of those that had another one.
-- $1 source: int[], key
-- $2 metric: text[], null for the default
-- $3 direction: text[], minimize or maximize; null for the default
update checkpointd.sources
set objective_metric = given.metric, objective_direction = given.direction
from unnest($1::int[], $2::text[], $3::text[]) as given (source, metric, direction)
where sources.key = given.source
  and (sources.objective_metric, sources.objective_direction) is distinct from (given.metric, given.direction)
returning sources.key
