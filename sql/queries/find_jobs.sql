-- The jobs with these ids, in whatever source. $1 ids.
select j.key, j.id, s.key as source, s.name as source_name, j.untracked_at is null as tracked
from checkpointd.jobs j join checkpointd.sources s on s.key = j.source
where j.id = any ($1::text[])
