-- Every tracked job of these sources. $1 sources.
select j.key, j.id, s.key as source, s.name as source_name, true as tracked
from checkpointd.jobs j join checkpointd.sources s on s.key = j.source
where j.source = any ($1::int[]) and j.untracked_at is null
