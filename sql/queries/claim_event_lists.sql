-- Lease event lists of a source that are due: those of jobs that are not sealed first, then the longest overdue.
-- $1 source: int, key
-- $2 slots: int, how many to lease
-- $3 reads_events: bool, false to lease none: the daemon does not read events
-- $4 lease_seconds: float8, how long the leases last
--
-- Besides the due times, a list is due when its job has ended and it was not read to its end since; and once after the
-- job was sealed. As in claim_due_jobs.sql, times that were written in the future hold nothing back. Nor does an end
-- or a seal that lies in the future make a list due, because no reading can be after it yet.
--
-- The leases are returned in the same order, because not all of them may be read.
with clock as materialized (select clock_timestamp() as now),

marked as (
  update checkpointd.sources
  set events_looked_at = case when $3::bool then clock.now end
  from clock
  where key = $1::int
    and case
      when $3 then coalesce(abs(extract(epoch from clock.now - events_looked_at)) > 3600, true)
      else events_looked_at is not null
    end
),

candidate as materialized (
  select polling.job, event_lists.due_at
  from checkpointd.polling
  join checkpointd.sources on sources.key = polling.source
  cross join clock
  cross join lateral (
    select case when polling.settling_since <= clock.now then polling.settling_since end as ended_at,
      case when polling.sealed_at <= clock.now then polling.sealed_at end as sealed_at
  ) as past
  left join checkpointd.event_lists on event_lists.job = polling.job
  where polling.source = $1
    and $3
    and (polling.next_poll_at < 'infinity' or polling.sealed_at is not null)  -- false for an untracked job
    and not polling.is_gone
    and polling.error_class is distinct from 'missing'
    and checkpointd.is_over(sources.resume_at, sources.paused_at, clock.now)
    and checkpointd.is_over(event_lists.lease_expires_at, event_lists.attempt_at, clock.now)
    and (
      checkpointd.is_over(event_lists.due_at, event_lists.attempt_at, clock.now)
      or event_lists.failures = 0
        and (
          coalesce(coalesce(event_lists.complete_from, '-infinity') < past.ended_at, false)
          or coalesce(event_lists.read_from < past.sealed_at, false)
        )
    )
    and (
      polling.sealed_at is null
      or event_lists.job is null
      or not event_lists.given_up
        and (
          coalesce(event_lists.read_from, '-infinity') < past.sealed_at
          or coalesce(event_lists.complete_from < past.ended_at, event_lists.complete_from is null)
        )
    )
  order by polling.sealed_at is not null, event_lists.due_at nulls first, polling.job
  limit greatest($2::int, 0)
),

claimed as (
  insert into checkpointd.event_lists (job, lease_token, attempt_at, lease_expires_at, due_at)
  select candidate.job, checkpointd.random_token(), clock.now, clock.now + $4::float8 * interval '1 s', clock.now
  from candidate
  cross join clock
  order by candidate.job
  on conflict (job) do update
  set lease_token = excluded.lease_token,
    attempt_at = excluded.attempt_at,
    lease_expires_at = excluded.lease_expires_at,
    due_at = least(event_lists.due_at, excluded.attempt_at),  -- if it is released, it keeps its place
    read_from = checkpointd.not_after(event_lists.read_from, excluded.attempt_at),
    complete_from = checkpointd.not_after(event_lists.complete_from, excluded.attempt_at),
    pass_from = checkpointd.not_after(event_lists.pass_from, excluded.attempt_at),
    failing_since = checkpointd.not_after(event_lists.failing_since, excluded.attempt_at),
    steps_at = checkpointd.not_after(event_lists.steps_at, excluded.attempt_at)
  where checkpointd.is_over(event_lists.lease_expires_at, event_lists.attempt_at, excluded.attempt_at)
  returning *
)

select claimed.job, jobs.id, claimed.lease_token,
  extract(epoch from claimed.attempt_at - polling.settling_since)::float8 as settling_seconds,
  coalesce(claimed.complete_from < polling.settling_since, claimed.complete_from is null) as is_incomplete,
  claimed.cursor, claimed.pages, claimed.pass_is_complete, claimed.pass_ids, claimed.known_ids, claimed.digest,
  claimed.failures, claimed.error_class
from claimed
join candidate on candidate.job = claimed.job
join checkpointd.polling on polling.job = claimed.job
join checkpointd.jobs on jobs.key = claimed.job
order by polling.sealed_at is not null, candidate.due_at nulls first, claimed.job
