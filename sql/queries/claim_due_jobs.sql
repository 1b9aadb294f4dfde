-- Lease due jobs, longest due first. $1 sources, and for each: $2 free slots, $3 how many of them failing jobs may take,
-- $4 seconds between requests by its budget (null: no budget). $5 seconds of the lease. Whether a row was claimed in what is
-- yet to come (the clock went back) is asked of the clock itself: this statement may be older than another's claim.
with clock as materialized (select clock_timestamp() as t),
asked as (
  select a.source, a.room, a.failing, a.emission * interval '1 s' as emission, s.budget_at
  from unnest($1::int[], $2::int[], $3::int[], $4::float8[]) as a (source, room, failing, emission)
  join checkpointd.sources s on s.key = a.source, clock
  where s.resume_at is null or s.resume_at <= clock.t or s.resume_at > clock.t + interval '1 hour'),
budget as materialized (   -- only sources with a budget are locked; who finds one locked leaves it for its next tick
  select s.key, a.emission, greatest(case when s.budget_at <= clock.t + interval '1 hour' + 200 * a.emission then s.budget_at end,
    clock.t - greatest(interval '1 s', a.emission)) as spent_at
  from checkpointd.sources s join asked a on a.source = s.key, clock
  where a.emission is not null
  order by s.key for no key update of s skip locked),
open as (
  select a.source, a.room, a.failing from asked a where a.emission is null
  union all
  select a.source, least(a.room, floor(extract(epoch from clock.t - b.spent_at) / extract(epoch from b.emission)))::int, a.failing
  from asked a join budget b on b.key = a.source, clock),
failing as materialized (
  select o.source, o.room, d.job, d.next_poll_at from open o cross join lateral (
    select p.job, p.next_poll_at from checkpointd.polling p
    where p.source = o.source and p.failures > 0
      and (p.next_poll_at <= (select t from clock) or p.last_attempt_at > clock_timestamp() and p.next_poll_at < 'infinity')
      and (p.lease_expires_at is null or p.lease_expires_at <= (select t from clock) or p.last_attempt_at > clock_timestamp())
    order by p.next_poll_at
    limit greatest(least(o.failing, o.room), 0)
    for no key update skip locked) d),
healthy as materialized (
  select o.source, o.room, d.job, d.next_poll_at from open o cross join lateral (
    select p.job, p.next_poll_at from checkpointd.polling p
    where p.source = o.source and p.failures = 0
      and (p.next_poll_at <= (select t from clock) or p.last_attempt_at > clock_timestamp() and p.next_poll_at < 'infinity')
      and (p.lease_expires_at is null or p.lease_expires_at <= (select t from clock) or p.last_attempt_at > clock_timestamp())
    order by p.next_poll_at
    limit greatest(o.room, 0)
    for no key update skip locked) d),
due as (
  select d.job, row_number() over (partition by d.source order by d.next_poll_at) <= d.room as fits
  from (select * from failing union all select * from healthy) d),
claimed as (
  update checkpointd.polling p
  set lease_token = p.lease_token + 1, lease_expires_at = clock.t + $5::float8 * interval '1 s', last_attempt_at = clock.t,
    next_poll_at = clock.t, poll_again = false
  from clock where p.job = any (array(select job from due where fits))
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
