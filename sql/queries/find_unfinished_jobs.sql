-- The tracked jobs whose end the job list has yet to tell. $1 source.
select j.id from checkpointd.polling p join checkpointd.jobs j on j.key = p.job
where p.source = $1::int and p.settling_since is null and p.sealed_at is null and j.untracked_at is null
  and p.error_class is distinct from 'missing'
