-- Jobs whose status changed: note their end or its revocation, and poll them at once. $1 jobs, $2 whether ended,
-- $3 whether to wake.
with locked as materialized (
  select p.job, u.ended, u.wake from checkpointd.polling p
  join unnest($1::bigint[], $2::bool[], $3::bool[]) as u (job, ended, wake) using (job)
  order by p.job for no key update of p)
update checkpointd.polling p
set settling_since = case when l.ended then coalesce(p.settling_since, clock_timestamp()) end,
  sealed_at = null, equal_listings = 0,
  next_poll_at = case when p.next_poll_at = 'infinity' and p.sealed_at is null then p.next_poll_at
    when l.wake then clock_timestamp() else p.next_poll_at end,
  poll_again = l.wake and p.lease_expires_at is not null
from locked l where p.job = l.job
returning p.job
