-- Lease the job lists that are due. $1 sources, $2 seconds of the lease, $3 whether even those not due.
with clock as materialized (select clock_timestamp() as t),
due as (
  select s.key from checkpointd.sources s, clock
  where s.key = any ($1::int[])
    and ($3::bool or (s.job_list_due_at <= clock.t or s.job_list_attempt_at > clock_timestamp()) and (s.budget_at <= clock.t or s.budget_at > clock.t + interval '30 days')
      and (s.resume_at is null or s.resume_at <= clock.t or s.resume_at > clock.t + interval '1 hour'))
    and (s.job_list_lease_expires_at is null or s.job_list_lease_expires_at <= clock.t or s.job_list_attempt_at > clock_timestamp())
  order by s.key for no key update of s skip locked)
update checkpointd.sources s
set job_list_lease_token = s.job_list_lease_token + 1, job_list_attempt_at = clock.t,
  job_list_lease_expires_at = clock.t + $2::float8 * interval '1 s'
from due, clock where s.key = due.key
returning s.key as source, s.job_list_lease_token as lease_token, s.state <> 'ok' as troubled,
  coalesce(s.job_list_complete_at < clock.t - interval '1 day', true) as full_pass
