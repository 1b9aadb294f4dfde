-- Track jobs for the first time or again, and return the keys of those that were not tracked.
-- $1 source: int, key
-- $2 ids: text[], the provider's ids
select job
from checkpointd.track_jobs($1::int, $2::text[]) as tracked (job)
