-- Pick one tracked job of each source, with which its key can be tested: the one that was listed last.
select distinct on (source) source, fine_tuning_job_id as id
from fine_tuning.freshness
order by source, last_complete_at desc nulls last
