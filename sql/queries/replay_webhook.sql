-- Let a webhook send again what it selects from a change on. A sender that is at work loses its lease.
-- $1 name: text
-- $2 seq: bigint, changes.seq of the first change to send
update checkpointd.webhooks
set cursor = $2::bigint - 1,
  lease_token = checkpointd.random_token(),
  lease_expires_at = null,
  next_attempt_at = null,
  failures = 0,
  failing_since = null
where name = $1::text
returning name
