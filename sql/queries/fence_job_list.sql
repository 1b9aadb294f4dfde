-- Lock a source if the lease of its job list is still the given one; otherwise return no row.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim
select key
from checkpointd.sources
where key = $1
  and job_list_lease_token = $2
  and job_list_lease_expires_at is not null
for no key update
