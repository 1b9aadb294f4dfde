-- Make the failing jobs of sources that work again due within a minute, spread over it, except those that are gone.
-- $1 sources: int[], keys
--
-- A row that another transaction has locked is left out: its poll is due soon anyway.
with locked as materialized (
  select polling.job
  from checkpointd.polling
  where polling.source = any ($1::int[])
    and polling.failures > 0
    and polling.next_poll_at > clock_timestamp() + interval '1 minute'
    and polling.next_poll_at < 'infinity'
    and not polling.is_gone
  order by polling.job
  for no key update of polling skip locked
)

update checkpointd.polling
set next_poll_at = clock_timestamp() + random() * interval '1 minute'
from locked
where polling.job = locked.job
returning polling.job
