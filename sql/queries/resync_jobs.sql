-- Make jobs due at once and have their next listing compared in full, even if they are sealed.
-- $1 jobs: bigint[], keys
select job
from checkpointd.resync_jobs($1::bigint[]) as resynced (job)
