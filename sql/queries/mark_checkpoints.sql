-- Mark checkpoints missing, or back again. $1 jobs, $2 ids, $3 whether missing.
update checkpointd.checkpoints c set missing_since = case when u.missing then clock_timestamp() end
from unnest($1::bigint[], $2::text[], $3::bool[]) as u (job, id, missing) where c.job = u.job and c.id = u.id
