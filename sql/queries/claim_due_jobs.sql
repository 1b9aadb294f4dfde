-- Lease due jobs of each source, the longest overdue first in proportion to their gaps, or in another order.
-- $1 source: int[], key
-- $2 slots: int[], how many jobs the source can take now
-- $3 failing_slots: int[], how many of these may be jobs that fail lastingly, so that they do not crowd out the others
-- $4 request_interval: float8[], seconds between requests; null if there is no rate limit
-- $5 lease_seconds: float8, how long the leases last
-- $6 claim_order: text[], overdue: the longest overdue first, in proportion to their poll gaps, because they are the
--    most likely to have news; random: at random, so that slow jobs do not stand before the others; recent: those
--    first that were read most recently. In the last two, jobs that have failed come last
-- $7 lasting_failures: int, from how many failures in a row on a job fails lastingly
-- $8 longest_back_off: float8, the most seconds until the next poll after a failure, unless the poll gap is longer
--
-- A lease is lost if it expires without a save: its daemon was killed, or could not save the poll. If two leases in a
-- row of a job were lost, that counts as a failed poll, and the job is not leased now. So a job whose polls kill the
-- daemons backs off. Its row is returned, too, with is_lost.
--
-- If the server's clock was set back, times that it wrote before lie in the future. None of them holds work back:
-- is_over() ignores them, a job that was never claimed is always due, and a claim corrects the times on which the
-- cadence depends. Only the time of tracking is not corrected: while it lies in the future, the last arrival or the
-- time of the claim counts instead.
with clock as materialized (select clock_timestamp() as now),

requested as (
  select capacity.source, capacity.slots, capacity.failing_slots, capacity.claim_order,
    capacity.request_interval * interval '1 s' as request_interval
  from unnest($1::int[], $2::int[], $3::int[], $4::float8[], $6::text[])
    as capacity (source, slots, failing_slots, request_interval, claim_order)
  join checkpointd.sources on sources.key = capacity.source
  cross join clock
  where checkpointd.is_over(sources.resume_at, sources.paused_at, clock.now)
),

-- Only sources with a rate limit are locked. If another claim has locked one, its jobs are left to the next tick.
rate_limit as materialized (
  select sources.key as source, requested.request_interval,
    checkpointd.spent_until(
      checkpointd.valid_time(sources.budget_at, sources.charged_at), requested.request_interval, clock.now
    ) as spent_until
  from checkpointd.sources
  join requested on requested.source = sources.key
  cross join clock
  where requested.request_interval is not null
  order by sources.key
  for no key update of sources skip locked
),

available as (
  select requested.source, requested.slots, requested.failing_slots, requested.claim_order
  from requested
  where requested.request_interval is null
  union all
  select requested.source,
    least(
      requested.slots,
      floor(extract(epoch from clock.now - rate_limit.spent_until) / extract(epoch from rate_limit.request_interval))
    )::int,
    requested.failing_slots, requested.claim_order
  from requested
  join rate_limit on rate_limit.source = requested.source
  cross join clock
),

candidate as materialized (
  select available.source, available.slots, due.job, due.is_lost,
    row_number() over (
      partition by available.source
      order by available.claim_order <> 'overdue' and due.is_lasting, due.lateness desc
    ) as place
  from available
  cross join clock
  cross join lateral checkpointd.lock_due_jobs(
    available.source, available.slots, available.failing_slots, available.claim_order, $7::int, clock.now
  ) as due
),

-- The rows are locked: whatever was saved before has an earlier time than the claim.
claim_clock as materialized (
  select clock_timestamp() as now
  from (select count(*) from candidate) as locked
),

lost as (select array(select job from candidate where place <= slots and is_lost) as jobs),

claimed as (
  update checkpointd.polling
  set lease_token = checkpointd.random_token(),
    lease_expires_at = case when polling.job <> all (lost.jobs) then clock.now + $5::float8 * interval '1 s' end,
    lease_was_lost = polling.lease_expires_at is not null,
    last_attempt_at = clock.now,
    next_poll_at = case
      when polling.job = any (lost.jobs) then clock.now + interval '1 s'
        * least(polling.gap_s * 2 ^ least(polling.failures + 1, 30), greatest($8::float8, polling.gap_s))
      else least(polling.next_poll_at, clock.now)  -- if it is released, it keeps its place
    end,
    failures = polling.failures + (polling.job = any (lost.jobs))::int,
    equal_failures = case
      when polling.job <> all (lost.jobs) then polling.equal_failures
      when polling.error_class = 'lease_lost' then polling.equal_failures + 1
      else 1
    end,
    error_class = case when polling.job = any (lost.jobs) then 'lease_lost' else polling.error_class end,
    last_error = case
      when polling.job = any (lost.jobs)
        then 'its last polls did not end: the daemon was killed meanwhile, or could not save them'
      else polling.last_error
    end,
    failure_poll = case when polling.job <> all (lost.jobs) then polling.failure_poll end,
    poll_again = false,
    settling_since = checkpointd.not_after(polling.settling_since, clock.now),
    failing_since = case
      when polling.job = any (lost.jobs) and polling.error_class is distinct from 'lease_lost' then clock.now
      else checkpointd.not_after(polling.failing_since, clock.now)
    end,
    last_change_at = checkpointd.not_after(polling.last_change_at, clock.now),
    newest_seen_at = checkpointd.not_after(polling.newest_seen_at, clock.now),
    waiting_since = checkpointd.not_after(polling.waiting_since, clock.now),
    listed_at = checkpointd.not_after(polling.listed_at, clock.now)
  from claim_clock as clock
  cross join lost
  where polling.job = any (array(select job from candidate where place <= slots))
  returning polling.lease_expires_at is null as is_lost,
    polling.job, polling.source, polling.lease_token, polling.digest, polling.content_digest,
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
  join (
    select source, count(*) as count
    from claimed
    where not is_lost
    group by source
  ) as polls on polls.source = rate_limit.source
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
  end as is_listed, claimed.is_lost
from claimed
join checkpointd.jobs on jobs.key = claimed.job
join checkpointd.sources on sources.key = claimed.source
