-- Read the job records of jobs, as they are stored.
-- $1 jobs: bigint[], keys
-- $2 most_bytes: int, of a record; larger ones, which an earlier version stored, are left out
select key, payload::text as payload
from checkpointd.jobs
where key = any ($1::bigint[])
  and octet_length(payload::text) <= $2::int
