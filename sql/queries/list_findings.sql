-- List open findings: those about sources first, those that jobs have finished last, and the latest of each first. Each
-- row has the number of all of them.
-- $1 source: text, null for all
-- $2 job: text, null for all of the source, with those about the source
-- $3 most: int, null for all
select source, fine_tuning_job_id, kind, since, message, value, checkpoint_id, count(*) over () as total
from fine_tuning.findings
where until is null
  and ($1::text is null or source = $1::text)
  and ($2::text is null or fine_tuning_job_id = $2::text)
order by fine_tuning_job_id is not null, kind = 'finished', since desc, source, fine_tuning_job_id, kind, checkpoint_id
limit $3::int
