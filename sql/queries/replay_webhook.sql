-- Let a webhook send again what it selects from a change on. Returns the largest number that $2 may be, with which
-- only new changes are sent: a larger one would skip changes, and nothing is done. Returns no row if the webhook does
-- not exist. A sender that is at work can no longer move the cursor. Its lease stays until it expires, so that no
-- other sender sends while its request is under way.
-- $1 name: text
-- $2 seq: bigint, changes.seq of the first change to send
with bounds as materialized (select coalesce(max(seq), 0) + 1 as most_seq from checkpointd.changes),

replayed as (
  update checkpointd.webhooks
  set cursor = $2::bigint - 1,
    lease_token = checkpointd.random_token(),
    next_attempt_at = null,
    failures = 0,
    failing_since = null
  from bounds
  where name = $1::text
    and $2 <= bounds.most_seq
)

select bounds.most_seq
from checkpointd.webhooks
cross join bounds
where webhooks.name = $1
