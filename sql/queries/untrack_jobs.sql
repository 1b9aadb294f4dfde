-- Stop polling jobs, and return the keys of those that were tracked; what is stored stays.
-- $1 jobs: bigint[], keys
select job
from checkpointd.untrack_jobs($1::bigint[]) as untracked (job)
