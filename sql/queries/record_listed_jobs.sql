-- Record that the job list shows jobs whose checkpoints the provider does not find. A gone one is missing again, and
-- due.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim of the job list
-- $3 ids: text[], the provider's ids
--
-- A row is written at most twice an hour. A row that another transaction has locked is left to the next reading. So a
-- job is not listed any more if a pass that began after the provider did not find it has read the list to its end, and
-- the job was not recorded since an hour before that pass began (see claim_due_jobs.sql).
with locked as materialized (
  select polling.job
  from checkpointd.polling
  join checkpointd.jobs on jobs.key = polling.job
  where jobs.source = $1::int
    and jobs.id = any ($3::text[])
    and polling.error_class = 'missing'
    and polling.sealed_at is null
    and polling.next_poll_at < 'infinity'
    and (
      polling.is_gone
      or polling.listed_at is null
      or polling.listed_at < clock_timestamp() - interval '30 minutes'
      or polling.listed_at > clock_timestamp()
    )
  order by polling.job
  for no key update of polling skip locked
),

-- The condition on the count, which is always true, makes PostgreSQL lock the rows of polling first.
fence as materialized (
  select sources.key
  from checkpointd.sources
  where sources.key = $1::int
    and sources.job_list_lease_token = $2::bigint
    and sources.job_list_lease_expires_at is not null
    and (select count(*) from locked) >= 0
  for no key update of sources
)

update checkpointd.polling
set listed_at = clock_timestamp(),
  next_poll_at = case when polling.is_gone then polling.last_attempt_at else polling.next_poll_at end,
  is_gone = false
from locked
cross join fence
where polling.job = locked.job
returning polling.job
