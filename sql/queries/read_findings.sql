-- Read findings by their keys.
-- $1 ids: bigint[]
select source, fine_tuning_job_id as job, kind, until, message
from fine_tuning.findings
where id = any ($1::bigint[])
order by id
