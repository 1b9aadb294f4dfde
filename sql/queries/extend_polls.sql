-- Count polls that failed as the one before. $1 ids, $2 items.
update checkpointd.polls o set count = o.count + 1, last_at = clock_timestamp(), items = u.items
from unnest($1::bigint[], $2::int[]) as u (id, items) where o.id = u.id
