-- Lease the job lists of sources that are due.
-- $1 sources: int[], keys
-- $2 lease_seconds: float8, how long the leases last
-- $3 due_or_not: bool, whether to lease job lists that are not due, too
--
-- Times that lie in the future are ignored or corrected: the server's clock was set back since (see
-- claim_due_jobs.sql).
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
      or checkpointd.is_over(sources.job_list_due_at, sources.job_list_attempt_at, clock.now)
        -- Listings of many pages can keep budget_at ahead of the clock all the time. The request waits for its turn,
        -- for half of the lease at most.
        and checkpointd.is_over(sources.budget_at - $2::float8 * interval '0.5 s', sources.charged_at, clock.now)
        and checkpointd.is_over(sources.resume_at, sources.paused_at, clock.now)
    )
    and checkpointd.is_over(sources.job_list_lease_expires_at, sources.job_list_attempt_at, clock.now)
  order by sources.key
  for no key update of sources skip locked
)

update checkpointd.sources
set job_list_lease_token = checkpointd.random_token(),
  job_list_attempt_at = clock.now,
  job_list_due_at = least(sources.job_list_due_at, clock.now),  -- for the case that the lease is lost
  job_list_lease_expires_at = clock.now + $2::float8 * interval '1 s',
  job_list_complete_from = checkpointd.not_after(sources.job_list_complete_from, clock.now),
  job_list_complete_at = checkpointd.not_after(sources.job_list_complete_at, clock.now)
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
  sources.job_list_complete_at is not null or sources.job_list_cursor is not null as was_read,
  sources.job_list_cursor as cursor, sources.job_list_pages as pages,
  extract(epoch from clock_timestamp() - sources.job_list_complete_at)::float8 as since_last,
  extract(epoch from sources.job_list_complete_at - sources.job_list_complete_from)::float8 as last_took
