-- Save quiet polls and consume their leases, in one statement that is the whole transaction.
-- $1 job: bigint[], key
-- $2 lease_token: bigint[], from the claim
-- $3 gap: float8[], seconds from the claim to the next poll
-- $4 ended: bool[], whether the job has ended
-- $5 settled: bool[], whether it ended so long ago that equal listings may seal it
-- $6 digest: bytea[], of the listing; null if the next one must be compared in full
-- $7 content_digest: bytea[], of the listing; null if it was not read
-- $8 instability: int[], the score of the job after this poll
-- $9 unstable: bool[], whether the job is unstable with this score
--
-- A listing of an unstable job counts as equal if it has no news. Three equal listings in a row seal a settled job,
-- unless the listing has rejects, which a newer version may be able to read, or another poll was requested during
-- this one (poll_again). A row that another transaction has locked is left out: the save of its poll is repeated a
-- moment later.
with held as materialized (
  select polling.job, quiet.gap, quiet.ended and not polling.poll_again as ended, quiet.settled, quiet.digest,
    quiet.content_digest, quiet.instability, quiet.unstable,
    quiet.settled and polling.equal_listings >= 2 and polling.rejected = 0 and not polling.poll_again as seal
  from checkpointd.polling
  join unnest(
    $1::bigint[], $2::bigint[], $3::float8[], $4::bool[], $5::bool[], $6::bytea[], $7::bytea[], $8::int[], $9::bool[]
  ) as quiet (job, lease_token, gap, ended, settled, digest, content_digest, instability, unstable)
    using (job, lease_token)
  where polling.lease_expires_at is not null
  order by polling.job
  for no key update of polling skip locked
),

clock as materialized (select clock_timestamp() as now)

update checkpointd.polling
set lease_expires_at = null,
  next_poll_at = case
    when polling.poll_again then clock.now
    when held.seal or polling.next_poll_at = 'infinity' then 'infinity'
    else polling.last_attempt_at + held.gap * interval '1 s'
  end,
  settling_since = case
    when held.ended then coalesce(polling.settling_since, polling.last_attempt_at)
    else polling.settling_since
  end,
  sealed_at = case when held.seal then clock.now end,
  equal_listings = case when held.settled then polling.equal_listings + 1 else 0 end,
  digest = case when not polling.poll_again then held.digest end,
  content_digest = coalesce(held.content_digest, polling.content_digest),
  instability = held.instability,
  unstable_since = case when held.unstable then coalesce(polling.unstable_since, clock.now) end,
  poll_again = false,
  last_complete_at = clock.now,
  last_success_at = case when polling.rejected = 0 then clock.now else polling.last_success_at end,
  quiet_polls = polling.quiet_polls + 1,
  gap_s = held.gap,
  failures = 0,
  equal_failures = 0,
  is_gone = false,
  failing_since = null,
  failure_poll = null,
  error_class = null,
  last_error = null
from held
cross join clock
where polling.job = held.job
returning polling.job, polling.lease_token, polling.rejected
