-- Let a webhook send again what it selects from a change on. A sender that is at work can no longer move the cursor. Its
-- lease stays until it expires, so that no other sender sends while its request is under way.
-- $1 name: text
-- $2 seq: bigint, changes.seq of the first change to send
update checkpointd.webhooks
set cursor = $2::bigint - 1,
  lease_token = checkpointd.random_token(),
  next_attempt_at = null,
  failures = 0,
  failing_since = null
where name = $1::text
returning name
