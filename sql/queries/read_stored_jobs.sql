-- What is stored of listed jobs. $1 source, $2 ids.
select j.key, j.id, j.status, sha256(convert_to(j.payload::text, 'UTF8')) as digest
from checkpointd.jobs j where j.source = $1::int and j.id = any ($2::text[]) and j.untracked_at is null
