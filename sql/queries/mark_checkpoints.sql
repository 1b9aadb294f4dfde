-- Mark checkpoints as missing, or as listed again.
-- $1 job: bigint[], key
-- $2 id: text[], the provider's id of the checkpoint
-- $3 missing: bool[], whether it is missing or, if false, listed again
update checkpointd.checkpoints
set missing_since = case when marked.missing then clock_timestamp() end
from unnest($1::bigint[], $2::text[], $3::bool[]) as marked (job, id, missing)
where checkpoints.job = marked.job
  and checkpoints.id = marked.id
