-- Lease due jobs of each source, the longest overdue first.
-- $1 source: int[], key
-- $2 slots: int[], how many jobs the source can take now
-- $3 failing_slots: int[], how many of these may be failing jobs, so that they do not crowd out the others
-- $4 request_interval: float8[], seconds between requests; null if there is no rate limit
-- $5 lease_seconds: float8, how long the leases last
--
-- If the server's clock was set back, times that it wrote before lie in the future. They must not hold work back: a
-- pause that ends more than an hour from now is ignored, and so are the due time and the lease of a job whose last
-- claim lies in the future. This last comparison reads the clock for each row. It cannot use the time of `clock`,
-- because another claim may have committed since, and would seem to lie in the future.
with clock as materialized (select clock_timestamp() as now),

requested as (
  select capacity.source, capacity.slots, capacity.failing_slots,
    capacity.request_interval * interval '1 s' as request_interval
  from unnest($1::int[], $2::int[], $3::int[], $4::float8[])
    as capacity (source, slots, failing_slots, request_interval)
  join checkpointd.sources on sources.key = capacity.source
  cross join clock
  where sources.resume_at is null
    or sources.resume_at <= clock.now
    or sources.resume_at > clock.now + interval '1 hour'
),

-- Only sources with a rate limit are locked. If another claim has locked one, its jobs are left to the next tick.
rate_limit as materialized (
  select sources.key as source, requested.request_interval,
    checkpointd.spent_until(sources.budget_at, requested.request_interval, clock.now) as spent_until
  from checkpointd.sources
  join requested on requested.source = sources.key
  cross join clock
  where requested.request_interval is not null
  order by sources.key
  for no key update of sources skip locked
),

available as (
  select requested.source, requested.slots, requested.failing_slots
  from requested
  where requested.request_interval is null
  union all
  select requested.source,
    least(
      requested.slots,
      floor(extract(epoch from clock.now - rate_limit.spent_until) / extract(epoch from rate_limit.request_interval))
    )::int,
    requested.failing_slots
  from requested
  join rate_limit on rate_limit.source = requested.source
  cross join clock
),

candidate as materialized (
  select available.source, available.slots, due.job, due.next_poll_at
  from available
  cross join lateral (
    values (true, least(available.failing_slots, available.slots)), (false, available.slots)
  ) as share (failing, slots)
  cross join lateral (
    select polling.job, polling.next_poll_at
    from checkpointd.polling
    where polling.source = available.source
      and case when share.failing then polling.failures > 0 else polling.failures = 0 end
      and (
        polling.next_poll_at <= (select now from clock)
        or polling.last_attempt_at > clock_timestamp() and polling.next_poll_at < 'infinity'
      )
      and (
        polling.lease_expires_at is null
        or polling.lease_expires_at <= (select now from clock)
        or polling.last_attempt_at > clock_timestamp()
      )
    order by polling.next_poll_at
    limit greatest(share.slots, 0)
    for no key update skip locked
  ) as due
),

chosen as (
  select job, row_number() over (partition by source order by next_poll_at) <= slots as fits
  from candidate
),

claimed as (
  update checkpointd.polling
  set lease_token = polling.lease_token + 1,
    lease_expires_at = clock.now + $5::float8 * interval '1 s',
    last_attempt_at = clock.now,
    next_poll_at = clock.now,
    poll_again = false
  from clock
  where polling.job = any (array(select job from chosen where fits))
  returning polling.job, polling.source, polling.lease_token, polling.digest, polling.content_digest,
    polling.instability, polling.failures, polling.equal_failures, polling.failing_since, polling.error_class,
    polling.settling_since, polling.last_change_at, polling.newest_step, polling.newest_seen_at, polling.spacing_s,
    polling.spread_s, polling.last_attempt_at, polling.listed_at
),

charged as (
  update checkpointd.sources
  set budget_at = rate_limit.spent_until + polls.count * rate_limit.request_interval
  from rate_limit
  join (select source, count(*) as count from claimed group by source) as polls on polls.source = rate_limit.source
  where sources.key = rate_limit.source
)

select claimed.job, claimed.source, claimed.lease_token, claimed.digest, claimed.content_digest,
  claimed.instability, claimed.failures, claimed.equal_failures,
  extract(epoch from claimed.failing_since)::float8 as failing_since, claimed.error_class,
  extract(epoch from claimed.settling_since)::float8 as settling_since,
  extract(epoch from claimed.last_change_at)::float8 as last_change_at, claimed.newest_step,
  extract(epoch from claimed.newest_seen_at)::float8 as newest_seen_at, claimed.spacing_s, claimed.spread_s,
  extract(epoch from claimed.last_attempt_at)::float8 as claimed_at, jobs.id, jobs.status,
  extract(epoch from jobs.tracked_at)::float8 as tracked_at, sources.state <> 'ok' as source_not_ok,
  coalesce(claimed.listed_at >= sources.job_list_complete_at - interval '1 hour', claimed.listed_at is not null)
    as is_listed
from claimed
join checkpointd.jobs on jobs.key = claimed.job
join checkpointd.sources on sources.key = claimed.source
