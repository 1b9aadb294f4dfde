-- Track the jobs of a job list that were never tracked before, as far as the budget of the source goes.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim of the job list
-- $3 id: text[], the provider's id of each listed job; the first ones are preferred
-- $4 per_day: int, how many new jobs a day brings into the budget
-- $5 days: int, for how many days an unused budget adds up
--
-- An untracked job stays untracked. Returns how many are new, and how many were left out; a job that another
-- transaction is tracking is neither. If the lease was lost, both are 0.
--
-- The budget is a time, as that of the requests: each new job moves sources.new_jobs_until forward by a day divided by
-- per_day, up to now at most. If it lies in the future, the budget is empty: the server's clock was set back since.
with clock as materialized (select clock_timestamp() as now),

-- The offset makes PostgreSQL look up each id. Otherwise it might read all jobs of the source: its statistics are old
-- while a long list is read for the first time.
listed as materialized (
  select listed.id, min(listed.place) as place
  from unnest($3::text[]) with ordinality as listed (id, place)
  where not exists (select from checkpointd.jobs where jobs.source = $1::int and jobs.id = listed.id offset 0)
  group by listed.id
),

-- Locks the source if there is a new job, so that all daemons together keep to the budget.
budget as materialized (
  select sources.key, spent.until, spent.per_job,
    floor(extract(epoch from clock.now - spent.until) / extract(epoch from spent.per_job))::bigint as jobs
  from checkpointd.sources
  cross join clock
  cross join lateral (
    select interval '86400 s' / $4::int as per_job,
      greatest(least(sources.new_jobs_until, clock.now), clock.now - interval '86400 s' * $5::int) as until
  ) as spent
  where sources.key = $1
    and sources.job_list_lease_token = $2::bigint
    and sources.job_list_lease_expires_at is not null
    and exists (select from listed)
  for no key update of sources
),

admitted as materialized (
  select listed.id, listed.place
  from listed
  cross join budget
  order by listed.place
  limit (select jobs from budget)
),

discovered as materialized (
  select job
  from checkpointd.discover_jobs($1, array(select id from admitted order by place)) as discovered (job)
),

counted as (
  select (select count(*) from discovered) as new,
    case
      when exists (select from budget) then (select count(*) from listed) - (select count(*) from admitted)
      else 0
    end as left_out
),

-- That jobs are left out is written once in a reading.
charged as (
  update checkpointd.sources
  set new_jobs_until = budget.until + counted.new * budget.per_job,
    jobs_left_out_at = case when counted.left_out > 0 then clock.now else sources.jobs_left_out_at end
  from budget
  cross join counted
  cross join clock
  where sources.key = budget.key
    and (
      counted.new > 0
      or counted.left_out > 0
        and (sources.jobs_left_out_at between sources.job_list_attempt_at and clock.now) is not true
    )
)

select new, left_out
from counted
