-- Lease these jobs, in the order of their keys, due or not, paused or not; one that somebody polls, or has untracked, is left out.
-- $1 jobs, $2 the source of each, $3 sources with a budget, $4 seconds between requests of each of them. $5 seconds of the lease.
-- Whether the clock went back is judged row by row: another claim may have passed since this one read its clock.
with clock as materialized (select clock_timestamp() as t),
asked as (
  select a.job, a.source, row_number() over (partition by a.source) as n
  from unnest($1::bigint[], $2::int[]) as a (job, source)
  join checkpointd.jobs j on j.key = a.job and j.untracked_at is null),
budget as materialized (
  select s.key, b.emission * interval '1 s' as emission,
    greatest(case when s.budget_at <= clock.t + interval '1 hour' + 200 * b.emission * interval '1 s' then s.budget_at end,
      clock.t - greatest(1, b.emission) * interval '1 s') as spent_at
  from checkpointd.sources s join unnest($3::int[], $4::float8[]) as b (source, emission) on b.source = s.key, clock
  order by s.key for no key update of s),
free as materialized (
  select p.job from checkpointd.polling p
  join asked a on a.job = p.job
  left join budget b on b.key = a.source
  where (p.next_poll_at < 'infinity' or p.sealed_at is not null)  -- an untracked one has neither
    and (p.lease_expires_at is null or p.lease_expires_at <= (select t from clock) or p.last_attempt_at > clock_timestamp())
    and (b.key is null or a.n <= extract(epoch from (select t from clock) - b.spent_at) / extract(epoch from b.emission))
  order by p.job for no key update of p skip locked),
claimed as (
  update checkpointd.polling p
  set lease_token = p.lease_token + 1, lease_expires_at = clock.t + $5::float8 * interval '1 s', last_attempt_at = clock.t,
    next_poll_at = clock.t, poll_again = false
  from clock where p.job = any (array(select job from free))
  returning p.job, p.source, p.lease_token, p.digest, p.failures, p.equal_failures, extract(epoch from p.failing_since)::float8 as failing_since,
    p.error_class, extract(epoch from p.settling_since)::float8 as settling_since,
    extract(epoch from p.last_change_at)::float8 as last_change_at, p.newest_step,
    extract(epoch from p.newest_seen_at)::float8 as newest_seen_at, p.spacing_s, p.spread_s,
    extract(epoch from clock.t)::float8 as claimed_at),
spent as (
  update checkpointd.sources s set budget_at = b.spent_at + c.n * b.emission
  from budget b join (select source, count(*) as n from claimed group by source) c on c.source = b.key
  where s.key = b.key)
select c.job, c.source, c.lease_token, c.digest, c.failures, c.equal_failures, c.failing_since, c.error_class,
  c.settling_since, c.last_change_at, c.newest_step, c.newest_seen_at, c.spacing_s, c.spread_s, c.claimed_at,
  j.id, j.status, extract(epoch from j.tracked_at)::float8 as tracked_at, s.state <> 'ok' as troubled
from claimed c
join checkpointd.jobs j on j.key = c.job
join checkpointd.sources s on s.key = c.source
order by c.job
