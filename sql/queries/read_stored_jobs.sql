-- Read what is stored of the tracked jobs among those of a job list.
-- $1 source: int, key
-- $2 ids: text[], the provider's ids of the listed jobs
select key, id, status, sha256(convert_to(payload::text, 'UTF8')) as digest
from checkpointd.jobs
where source = $1::int
  and id = any ($2::text[])
  and untracked_at is null
