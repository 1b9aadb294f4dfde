-- Count failed polls in the row of an earlier poll that failed in the same way.
-- $1 id: bigint[], row of polls
-- $2 items: int[], items that were read
update checkpointd.polls
set count = polls.count + 1, last_at = clock_timestamp(), items = failed.items
from unnest($1::bigint[], $2::int[]) as failed (id, items)
where polls.id = failed.id
