-- End the reading of a job list. $1 source, $2 lease token, $3 seconds to the next, $4 whether read to its end, $5 error.
update checkpointd.sources s
set job_list_lease_expires_at = null, job_list_due_at = s.job_list_attempt_at + $3::float8 * interval '1 s',
  job_list_complete_at = case when $4::bool then clock_timestamp() else s.job_list_complete_at end, job_list_error = $5::text
where s.key = $1::int and s.job_list_lease_token = $2::bigint and s.job_list_lease_expires_at is not null
