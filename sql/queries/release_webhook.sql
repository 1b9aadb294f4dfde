-- Give the lease of a webhook back.
-- $1 name: text
-- $2 lease_token: bigint, from the claim
update checkpointd.webhooks
set lease_expires_at = null
where name = $1::text
  and lease_token = $2::bigint
