-- Make the failing jobs of sources that work again due within a minute, spread over it, except those that are gone.
-- $1 sources: int[], keys
--
-- A row that another transaction has locked is left out: its poll is due soon anyway. A due time never becomes later,
-- even if the clock is ahead, so this cannot delay a job.
with clock as materialized (select clock_timestamp() as now),

locked as materialized (
  select polling.job
  from checkpointd.polling
  cross join clock
  where polling.source = any ($1::int[])
    and polling.failures > 0
    and polling.next_poll_at > clock.now + interval '1 minute'
    and polling.next_poll_at < 'infinity'
    and not polling.is_gone
  order by polling.job
  for no key update of polling skip locked
)

update checkpointd.polling
set next_poll_at = clock.now + random() * interval '1 minute'
from locked
cross join clock
where polling.job = locked.job
returning polling.job
