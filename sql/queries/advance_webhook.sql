-- Move the cursor of a webhook after a delivery, or over changes that it does not select, if the lease still holds.
-- $1 name: text
-- $2 lease_token: bigint, from the claim
-- $3 cursor: bigint, changes.seq up to which all is done
-- $4 lease_seconds: float8, how long the lease lasts from now on; null to give it back
-- $5 outcome: text, delivered; refused (the endpoint will not accept it); given_up (after three days); null if nothing
--    was sent
-- $6 status: int, HTTP status of the answer; null without one
-- $7 answer: text, the answer in words
with clock as materialized (select clock_timestamp() as now)

update checkpointd.webhooks
set cursor = $3::bigint,
  leased_at = clock.now,
  lease_expires_at = clock.now + $4::float8 * interval '1 s',
  attempt_at = case when $5::text is null then attempt_at else clock.now end,
  next_attempt_at = null,
  last_status = case when $5 is null then last_status else $6::int end,
  last_answer = case when $5 is null then last_answer else $7::text end,
  failures = case when $5 = 'delivered' then 0 when $5 = 'refused' then failures + 1 else failures end,
  failing_since = case when $5 in ('delivered', 'refused') then null else failing_since end,
  delivered = delivered + case when $5 = 'delivered' then 1 else 0 end,
  delivered_at = case when $5 = 'delivered' then clock.now else delivered_at end,
  undelivered = undelivered + case when $5 in ('refused', 'given_up') then 1 else 0 end,
  undelivered_seq = case when $5 in ('refused', 'given_up') then $3 else undelivered_seq end,
  undelivered_at = case when $5 in ('refused', 'given_up') then clock.now else undelivered_at end,
  undelivered_reason = case when $5 in ('refused', 'given_up') then $7 else undelivered_reason end
from clock
where name = $1::text
  and lease_token = $2::bigint
returning cursor
