-- Give the leases of event lists back that were not read: they are due as before.
-- $1 job: bigint[], key
-- $2 lease_token: bigint[], from the claim
with held as (
  select event_lists.job
  from checkpointd.event_lists
  join unnest($1::bigint[], $2::bigint[]) as lease (job, lease_token) using (job, lease_token)
  where event_lists.lease_expires_at is not null
  order by event_lists.job
  for no key update of event_lists skip locked
)

update checkpointd.event_lists
set lease_expires_at = null
from held
where event_lists.job = held.job
