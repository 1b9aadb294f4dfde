-- Append to the feed, as the last of a transaction. It waits for the one place there, so that seq follows the order of commits.
-- No COPY, for whose rows PostgreSQL waits without any timeout: a daemon that froze would hold the place as long.
-- $1 jobs, $2 rows of polls, $3 kinds, $4 checkpoints, $5 fields, $6 old values, $7 new values.
with gate as materialized (select one from checkpointd.feed_gate for no key update),
clock as materialized (select clock_timestamp() as t from gate)
insert into checkpointd.changes (at, job, poll, kind, checkpoint_id, field, old_value, new_value)
select clock.t, u.job, u.poll, u.kind, u.checkpoint_id, u.field, u.old_value, u.new_value
from clock, unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
  with ordinality as u (job, poll, kind, checkpoint_id, field, old_value, new_value, n)
order by u.n
