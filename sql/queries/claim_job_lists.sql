-- Lease the job lists of sources that are due.
-- $1 sources: int[], keys
-- $2 lease_seconds: float8, how long the leases last
-- $3 due_or_not: bool, whether to lease job lists that are not due, too
--
-- Times that lie too far in the future are ignored: the server's clock was set back since (see claim_due_jobs.sql). A
-- list of many pages can use up a rate limit for days, so budget_at is ignored only if it is more than 30 days ahead.
--
-- source_may_recover is whether the source is ok again if its job list can be read. It is not if it is failing and
-- three jobs fail: the provider may answer for its job list alone.
with clock as materialized (select clock_timestamp() as now),

due as (
  select sources.key
  from checkpointd.sources
  cross join clock
  where sources.key = any ($1::int[])
    and (
      $3::bool
      or (sources.job_list_due_at <= clock.now or sources.job_list_attempt_at > clock_timestamp())
        and (sources.budget_at <= clock.now or sources.budget_at > clock.now + interval '30 days')
        and (
          sources.resume_at is null
          or sources.resume_at <= clock.now
          or sources.resume_at > clock.now + interval '1 hour'
        )
    )
    and (
      sources.job_list_lease_expires_at is null
      or sources.job_list_lease_expires_at <= clock.now
      or sources.job_list_attempt_at > clock_timestamp()
    )
  order by sources.key
  for no key update of sources skip locked
)

update checkpointd.sources
set job_list_lease_token = sources.job_list_lease_token + 1,
  job_list_attempt_at = clock.now,
  job_list_lease_expires_at = clock.now + $2::float8 * interval '1 s'
from due
cross join clock
where sources.key = due.key
returning sources.key as source, sources.job_list_lease_token as lease_token,
  sources.state <> 'ok' and (
    sources.state <> 'failing'
    or not exists (
      select
      from checkpointd.polling
      where polling.source = sources.key and polling.failures > 0
      offset 2
    )
  ) as source_may_recover,
  coalesce(sources.job_list_complete_at < clock.now - interval '1 day', true) as full_pass,
  sources.job_list_complete_at is not null as was_read
