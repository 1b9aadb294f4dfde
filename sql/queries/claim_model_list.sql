-- Claim the list of models of a source, if it was not claimed for a day. Returns a row if it was.
-- $1 source: int, key
--
-- The claim counts as the reading, so that a list that does not exist or cannot be read costs one request a day. The
-- source must work: its job list was read, and it is neither paused nor failing.
with due as (
  select sources.key
  from checkpointd.sources
  where sources.key = $1::int
    and sources.state = 'ok'
    and sources.job_list_complete_at is not null
    and checkpointd.is_over(
      sources.models_claimed_at + interval '1 day', sources.models_claimed_at, clock_timestamp()
    )
  for no key update of sources skip locked
)

update checkpointd.sources
set models_claimed_at = clock_timestamp()
from due
where sources.key = due.key
returning sources.key
