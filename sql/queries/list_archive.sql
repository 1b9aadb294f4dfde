-- List what is stored of each job of these sources, the incomplete ones first.
-- $1 source: int[], keys
select archive.source, archive.fine_tuning_job_id, archive.is_complete, archive.reason, archive.has_checkpoints
from fine_tuning.archive
join checkpointd.sources on sources.name = archive.source
where sources.key = any ($1::int[])
order by archive.is_complete, archive.source, archive.fine_tuning_job_id
