-- Have jobs compared in full again, at once, and reopen them if sealed. $1 jobs.
with locked as (
  select p.job from checkpointd.polling p
  join checkpointd.jobs j on j.key = p.job and j.untracked_at is null
  where p.job = any ($1::bigint[]) order by p.job for no key update of p)
update checkpointd.polling p
set next_poll_at = clock_timestamp(), sealed_at = null, equal_listings = 0, digest = null,
  poll_again = p.lease_expires_at is not null
from locked where p.job = locked.job
returning p.job
