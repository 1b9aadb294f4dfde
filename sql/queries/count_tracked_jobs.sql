-- How many jobs are tracked, are due with nobody polling them, and fail; and how long ago the last poll began, in seconds.
with clock as materialized (select clock_timestamp() as t)
select count(*) as tracked,
  count(*) filter (where p.next_poll_at <= clock.t and (p.lease_expires_at is null or p.lease_expires_at <= clock.t)) as due,
  count(*) filter (where p.failures > 0) as failing,
  extract(epoch from max(clock.t) - max(p.last_attempt_at))::float8 as last_poll_seconds
from clock, checkpointd.polling p join checkpointd.jobs j on j.key = p.job and j.untracked_at is null
