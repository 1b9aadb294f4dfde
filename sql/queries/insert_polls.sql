-- Insert rows for polls that changed something or failed in a new way, and return their ids.
-- $1 job: bigint[], key
-- $2 outcome: text[], changed, partial or failed
-- $3 error_class: text[], of the failure; null if the listing is complete
-- $4 items: int[], items that were read
-- $5 new: int[], checkpoints that were stored
-- $6 changed: int[], checkpoints that changed, went missing or returned
insert into checkpointd.polls (job, outcome, error_class, items, new, changed)
select finished.job, finished.outcome, finished.error_class, finished.items, finished.new, finished.changed
from unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[])
  as finished (job, outcome, error_class, items, new, changed)
returning id, job
