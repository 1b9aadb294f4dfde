-- Count the tracked jobs, those that are due and not leased, and those that fail; and return the age of the last poll.
with clock as materialized (select clock_timestamp() as now)

select count(*) as tracked,
  count(*) filter (where checkpointd.is_due(polling, clock.now)) as due,
  count(*) filter (where polling.failures > 0) as failing,
  extract(epoch from max(clock.now) - max(checkpointd.past(polling.last_attempt_at)))::float8 as last_poll_seconds
from checkpointd.polling
join checkpointd.jobs on jobs.key = polling.job and jobs.untracked_at is null
cross join clock
