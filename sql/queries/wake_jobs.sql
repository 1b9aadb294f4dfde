-- Record that the statuses of jobs changed: start or end their settling, reopen sealed ones, and make them due.
-- $1 job: bigint[], key
-- $2 ended: bool[], whether the new status is that of an ended job
-- $3 wake: bool[], whether to poll the job at once
--
-- A sealed job becomes due even without `wake`. So does a job that is being polled now and had a complete listing
-- before, once that poll has ended: it may have read its listing before the change. A row that another transaction has
-- locked is left out, and its status is saved later. A job that was untracked meanwhile is left out, too.
with locked as materialized (
  select polling.job, listed.ended, listed.wake
  from checkpointd.polling
  join unnest($1::bigint[], $2::bool[], $3::bool[]) as listed (job, ended, wake) using (job)
  where polling.next_poll_at < 'infinity'
    or polling.sealed_at is not null
  order by polling.job
  for no key update of polling skip locked
)

update checkpointd.polling
set settling_since = case when locked.ended then coalesce(polling.settling_since, clock_timestamp()) end,
  sealed_at = null,
  equal_listings = 0,
  next_poll_at = case
    when locked.wake or polling.sealed_at is not null then clock_timestamp()
    else polling.next_poll_at
  end,
  poll_again = polling.poll_again
    or polling.lease_expires_at is not null and (locked.wake or polling.last_complete_at is not null)
from locked
where polling.job = locked.job
returning polling.job
