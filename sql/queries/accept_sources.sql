-- Set sources to ok after an accepted request, except paused ones. Returns those that were not ok, and what they were.
-- $1 sources: int[], keys
with accepted as materialized (
  select sources.key, sources.state
  from checkpointd.sources
  where sources.key = any ($1::int[])
    and sources.state <> 'ok'
    and checkpointd.is_over(sources.resume_at, sources.paused_at, clock_timestamp())
  order by sources.key
  for no key update of sources
)

update checkpointd.sources
set state = 'ok', state_since = clock_timestamp(), resume_at = null
from accepted
where sources.key = accepted.key
returning sources.key, accepted.state as former_state
