-- Record an attempt of a delivery that failed, and give the lease back. Refusals before it are not counted with it.
-- $1 name: text
-- $2 lease_token: bigint, from the claim
-- $3 gap: float8, seconds until the next attempt
-- $4 status: int, HTTP status of the answer; null without one
-- $5 answer: text, the answer in words, or why there was none
with clock as materialized (select clock_timestamp() as now)

update checkpointd.webhooks
set lease_expires_at = null,
  attempt_at = clock.now,
  next_attempt_at = clock.now + $3::float8 * interval '1 s',
  failures = case when failing_since is null then 1 else failures + 1 end,
  failing_since = coalesce(failing_since, clock.now),
  last_status = $4::int,
  last_answer = $5::text
from clock
where name = $1::text
  and lease_token = $2::bigint
