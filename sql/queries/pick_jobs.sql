-- A tracked job of each source to try its key with: the one that was last listed.
select distinct on (f.source) f.source, f.fine_tuning_job_id as id
from fine_tuning.freshness f order by f.source, f.last_complete_at desc nulls last
