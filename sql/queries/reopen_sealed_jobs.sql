-- Reopen jobs whose seal lies more than a minute in the future: they are due, until three equal listings seal them.
--
-- The clock was ahead when they were sealed, and may have ended their settle time early.
--
-- A poll that is under way is still saved, but does not seal. A row that another transaction has locked is left out.
with locked as materialized (
  select polling.job
  from checkpointd.polling
  where polling.sealed_at > clock_timestamp() + interval '1 minute'
  order by polling.job
  for no key update of polling skip locked
)

update checkpointd.polling
set sealed_at = null,
  equal_listings = 0,
  next_poll_at = clock_timestamp()
from locked
where polling.job = locked.job
returning polling.job
