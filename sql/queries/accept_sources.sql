-- Set sources to ok after an accepted request, except paused ones, and return the names of those that were not ok.
-- $1 sources: int[], keys
update checkpointd.sources
set state = 'ok', state_since = clock_timestamp(), resume_at = null
where key = any ($1::int[])
  and state <> 'ok'
  and (resume_at is null or resume_at <= clock_timestamp())
returning name
