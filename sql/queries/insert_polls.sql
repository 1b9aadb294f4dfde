-- Rows for polls that changed something or failed in a new way. $1 jobs, $2 outcomes, $3 error classes, $4 items, $5 new,
-- $6 changed.
insert into checkpointd.polls (job, outcome, error_class, items, new, changed)
select u.job, u.outcome, u.error_class, u.items, u.new, u.changed
from unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[]) as u (job, outcome, error_class, items, new, changed)
returning id, job
