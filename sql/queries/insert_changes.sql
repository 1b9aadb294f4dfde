-- Append to the feed, as the last of a transaction. It waits for the one place there, so that seq follows the order of commits.
-- No COPY, for whose rows PostgreSQL waits without any timeout: a daemon that froze would hold the place as long.
-- $1 jobs, $2 rows of polls, $3 kinds, $4 checkpoints, $5 fields, $6 old values, $7 new values.
with gate as materialized (select one from checkpointd.feed_gate for no key update),
clock as materialized (select clock_timestamp() as t from gate)
insert into checkpointd.changes (at, job, poll, kind, checkpoint_id, field, old_value, new_value)
select clock.t, unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
  unnest($6::text[]), unnest($7::text[])
from clock
