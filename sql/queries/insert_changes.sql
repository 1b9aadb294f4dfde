-- Append changes to the feed, as the last statement of a transaction.
-- $1 job: bigint[], key
-- $2 poll: bigint[], row of polls; null if the change does not come from a poll
-- $3 kind: text[], new, changed, regressed, missing, returned or status
-- $4 checkpoint_id: text[], the provider's id; null if the change concerns the job itself
-- $5 field: text[], column of the view checkpoints, or extra_metrics.NAME; null for the whole checkpoint
-- $6 old_value: text[], before the change; or null
-- $7 new_value: text[], after the change; or null
--
-- The lock on feed_gate is taken first and held until the commit, so that seq follows the order of commits. COPY
-- cannot be used: PostgreSQL waits for its rows without a timeout, so a suspended daemon would keep the lock. The
-- arrays are expanded in the select list because that is 10 % faster than in the from clause, which would store all
-- rows first.
with gate as materialized (select one from checkpointd.feed_gate for no key update),

clock as materialized (select clock_timestamp() as now from gate)

insert into checkpointd.changes (at, job, poll, kind, checkpoint_id, field, old_value, new_value)
select clock.now,
  unnest($1::bigint[]) as job,
  unnest($2::bigint[]) as poll,
  unnest($3::text[]) as kind,
  unnest($4::text[]) as checkpoint_id,
  unnest($5::text[]) as field,
  unnest($6::text[]) as old_value,
  unnest($7::text[]) as new_value
from clock
