-- The tracked jobs whose end the job list has yet to tell. $1 source, $2 statuses, in lower case, that
-- tell an end.
select j.id from checkpointd.polling p join checkpointd.jobs j on j.key = p.job
where p.source = $1::int and p.sealed_at is null and (j.status is null or lower(j.status) <> all ($2::text[])) and j.untracked_at is null
  and p.error_class is distinct from 'missing'
