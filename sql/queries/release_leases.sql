-- Release leases without saving: the jobs are due again at once, and their failures stay as they were.
-- $1 job: bigint[], key
-- $2 lease_token: bigint[], from the claim
with held as (
  select polling.job
  from checkpointd.polling
  join unnest($1::bigint[], $2::bigint[]) as lease (job, lease_token) using (job, lease_token)
  where polling.lease_expires_at is not null
  order by polling.job
  for no key update of polling skip locked
)

update checkpointd.polling
set lease_expires_at = null, poll_again = false
from held
where polling.job = held.job
returning polling.job
