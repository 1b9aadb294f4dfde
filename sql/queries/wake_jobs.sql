-- Jobs whose status changed: note their end or its revocation, and poll them at once. $1 jobs, $2 whether ended,
-- $3 whether to wake. A row that is locked, or that was untracked meanwhile, is left out: its status is told again.
with locked as materialized (
  select p.job, u.ended, u.wake from checkpointd.polling p
  join unnest($1::bigint[], $2::bool[], $3::bool[]) as u (job, ended, wake) using (job)
  where p.next_poll_at < 'infinity' or p.sealed_at is not null
  order by p.job for no key update of p skip locked)
update checkpointd.polling p
set settling_since = case when l.ended then coalesce(p.settling_since, clock_timestamp()) end,
  sealed_at = null, equal_listings = 0,
  next_poll_at = case when l.wake or p.sealed_at is not null then clock_timestamp() else p.next_poll_at end,
  poll_again = p.poll_again or p.lease_expires_at is not null and (l.wake or p.last_complete_at is not null)
from locked l where p.job = l.job
returning p.job
