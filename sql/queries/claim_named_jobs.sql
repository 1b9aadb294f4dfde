-- Lease the given jobs, due or not and paused or not, except those that are being polled or are untracked.
-- $1 job: bigint[], key
-- $2 source: int[], key of the job's source
-- $3 limited_source: int[], keys of the sources that have a rate limit
-- $4 request_interval: float8[], seconds between requests of each of these sources
-- $5 lease_seconds: float8, how long the leases last
--
-- Jobs beyond what a rate limit allows now are left out too. Times that lie in the future are treated as by
-- claim_due_jobs.sql.
with clock as materialized (select clock_timestamp() as now),

requested as (
  select wanted.job, wanted.source, row_number() over (partition by wanted.source) as place
  from unnest($1::bigint[], $2::int[]) as wanted (job, source)
  join checkpointd.jobs on jobs.key = wanted.job and jobs.untracked_at is null
),

-- Waits for a source that another claim has locked.
rate_limit as materialized (
  select sources.key as source, given.request_interval * interval '1 s' as request_interval,
    checkpointd.spent_until(
      checkpointd.valid_time(sources.budget_at, sources.charged_at), given.request_interval * interval '1 s', clock.now
    ) as spent_until
  from checkpointd.sources
  join unnest($3::int[], $4::float8[]) as given (limited_source, request_interval)
    on given.limited_source = sources.key
  cross join clock
  order by sources.key
  for no key update of sources
),

chosen as materialized (
  select polling.job
  from checkpointd.polling
  join requested on requested.job = polling.job
  left join rate_limit on rate_limit.source = requested.source
  where (polling.next_poll_at < 'infinity' or polling.sealed_at is not null)  -- false if it was untracked meanwhile
    and checkpointd.is_over(polling.lease_expires_at, polling.last_attempt_at, (select now from clock))
    and (
      rate_limit.source is null
      or requested.place <= extract(epoch from (select now from clock) - rate_limit.spent_until)
        / extract(epoch from rate_limit.request_interval)
    )
  order by polling.job
  for no key update of polling skip locked
),

-- The rows are locked: whatever was saved before has an earlier time than the claim.
claim_clock as materialized (
  select clock_timestamp() as now
  from (select count(*) from chosen) as locked
),

claimed as (
  update checkpointd.polling
  set lease_token = checkpointd.random_token(),
    lease_expires_at = clock.now + $5::float8 * interval '1 s',
    lease_was_lost = polling.lease_expires_at is not null,
    last_attempt_at = clock.now,
    next_poll_at = clock.now,
    poll_again = false,
    settling_since = checkpointd.not_after(polling.settling_since, clock.now),
    failing_since = checkpointd.not_after(polling.failing_since, clock.now),
    last_change_at = checkpointd.not_after(polling.last_change_at, clock.now),
    newest_seen_at = checkpointd.not_after(polling.newest_seen_at, clock.now),
    waiting_since = checkpointd.not_after(polling.waiting_since, clock.now),
    listed_at = checkpointd.not_after(polling.listed_at, clock.now)
  from claim_clock as clock
  where polling.job = any (array(select job from chosen))
  returning polling.job, polling.source, polling.lease_token, polling.digest, polling.content_digest,
    polling.instability, polling.failures, polling.equal_failures, polling.failing_since, polling.error_class,
    polling.settling_since, polling.last_change_at, polling.newest_step, polling.newest_seen_at, polling.arrivals,
    polling.arrival_error_s, polling.first_arrival_s, polling.spacing_s, polling.spread_s,
    polling.publication_delay_s, polling.last_complete_at, polling.last_attempt_at,
    polling.waited_s, polling.waiting_since, polling.epoch_estimate_s, polling.listed_at
),

charged as (
  update checkpointd.sources
  set budget_at = rate_limit.spent_until + polls.count * rate_limit.request_interval, charged_at = clock.now
  from rate_limit
  cross join clock
  join (select source, count(*) as count from claimed group by source) as polls on polls.source = rate_limit.source
  where sources.key = rate_limit.source
)

select claimed.job, claimed.source, claimed.lease_token, claimed.digest, claimed.content_digest,
  claimed.instability, claimed.failures, claimed.equal_failures,
  extract(epoch from claimed.failing_since)::float8 as failing_since, claimed.error_class,
  extract(epoch from claimed.settling_since)::float8 as settling_since,
  extract(epoch from claimed.last_change_at)::float8 as last_change_at, claimed.newest_step,
  extract(epoch from claimed.newest_seen_at)::float8 as newest_seen_at, claimed.arrivals,
  claimed.arrival_error_s, claimed.first_arrival_s, claimed.spacing_s, claimed.spread_s, claimed.publication_delay_s,
  extract(epoch from claimed.last_complete_at)::float8 as last_complete_at,
  extract(epoch from claimed.last_attempt_at)::float8 as claimed_at,
  claimed.waited_s
    + coalesce(extract(epoch from claimed.last_attempt_at - claimed.waiting_since)::float8, 0) as waited_s,
  claimed.epoch_estimate_s, jobs.id, jobs.status,
  extract(epoch from case
    when jobs.tracked_at <= claimed.last_attempt_at then jobs.tracked_at
    else coalesce(claimed.newest_seen_at, claimed.last_attempt_at)
  end)::float8 as tracked_at, sources.state <> 'ok' as source_not_ok,
  case
    when sources.job_list_complete_at is null then claimed.listed_at is not null
    else claimed.listed_at is not null and claimed.listed_at >= sources.job_list_complete_from - interval '1 hour'
      -- The list was not read to its end since the provider did not find the job. If it was not for a day, it may have
      -- become unreadable.
      or coalesce(sources.job_list_complete_from < claimed.failing_since, false)
      and sources.job_list_complete_at > clock_timestamp() - interval '1 day'
  end as is_listed, false as is_lost
from claimed
join checkpointd.jobs on jobs.key = claimed.job
join checkpointd.sources on sources.key = claimed.source
order by claimed.job
