-- Lock a source whose job list is still ours to save. $1 source, $2 lease token.
select key from checkpointd.sources
where key = $1 and job_list_lease_token = $2 and job_list_lease_expires_at is not null for no key update
