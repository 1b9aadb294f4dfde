-- Save polls whose listing was complete and equal to the one before: the whole transaction. A row that is locked is left. $1 jobs, $2 lease tokens,
-- $3 seconds to the next poll, $4 whether the job has ended, $5 for so long that three equal listings seal it: but not while
-- something of it cannot be read, for a newer reader may, and not if a status came during the poll.
with held as materialized (
  select p.job, g.gap, g.ended and not p.poll_again as ended, g.settled,
    g.settled and p.equal_listings >= 2 and p.rejected = 0 and not p.poll_again as seal
  from checkpointd.polling p
  join unnest($1::bigint[], $2::bigint[], $3::float8[], $4::bool[], $5::bool[]) as g (job, lease_token, gap, ended, settled)
    using (job, lease_token)
  where p.lease_expires_at is not null order by p.job for no key update of p skip locked),
clock as materialized (select clock_timestamp() as t)
update checkpointd.polling p
set lease_expires_at = null,
  next_poll_at = case when p.poll_again then clock.t when h.seal or p.next_poll_at = 'infinity' then 'infinity'
    else p.last_attempt_at + h.gap * interval '1 s' end,
  settling_since = case when h.ended then coalesce(p.settling_since, p.last_attempt_at) else p.settling_since end,
  sealed_at = case when h.seal then clock.t end, equal_listings = case when h.settled then p.equal_listings + 1 else 0 end,
  digest = case when not p.poll_again then p.digest end, poll_again = false,
  last_complete_at = clock.t, last_success_at = case when p.rejected = 0 then clock.t else p.last_success_at end,
  quiet_polls = p.quiet_polls + 1, gap_s = h.gap,
  failures = 0, equal_failures = 0, is_gone = false, failing_since = null, failure_poll = null, error_class = null, last_error = null
from held h, clock where p.job = h.job
returning p.job, p.lease_token, p.rejected
