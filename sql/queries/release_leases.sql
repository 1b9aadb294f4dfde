-- Give jobs back untouched: due again at once, their failures as they were. $1 jobs, $2 lease tokens.
with held as (
  select p.job from checkpointd.polling p
  join unnest($1::bigint[], $2::bigint[]) as g (job, lease_token) using (job, lease_token)
  where p.lease_expires_at is not null order by p.job for no key update of p skip locked)
update checkpointd.polling p set lease_expires_at = null, poll_again = false from held where p.job = held.job
returning p.job
