-- Lease a webhook, if changes wait for it. Its row is created when it is claimed for the first time.
-- $1 name: text
-- $2 from: bigint, changes.seq from which a new webhook sends; null, or a number that no change has yet, for what is
--    stored from now on
-- $3 lease_seconds: float8, how long the lease lasts
-- $4 past_minutes: bool, whether only changes of minutes that are over count
with clock as materialized (select clock_timestamp() as now),

created as (
  insert into checkpointd.webhooks (name, cursor)
  select $1::text, least($2::bigint - 1, (select coalesce(max(seq), 0) from checkpointd.changes))
  where not exists (select from checkpointd.webhooks where name = $1)
  on conflict (name) do nothing
)

update checkpointd.webhooks
set lease_token = checkpointd.random_token(),
  leased_at = clock.now,
  lease_expires_at = clock.now + $3::float8 * interval '1 s',
  failing_since = checkpointd.not_after(failing_since, clock.now)
from clock
where name = $1
  and checkpointd.is_over(lease_expires_at, leased_at, clock.now)
  and checkpointd.is_over(next_attempt_at, attempt_at, clock.now)
  and (
    select not $4::bool or checkpointd.is_past_minute(changes.at, clock.now)
    from checkpointd.changes
    where changes.seq > webhooks.cursor
    order by changes.seq
    limit 1
  )
returning lease_token, cursor, case when failing_since is null then 0 else failures end as failures,
  coalesce(extract(epoch from clock.now - failing_since), 0)::float8 as failing_seconds
