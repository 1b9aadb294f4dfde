-- Save how far the pass over a job list has come, if the lease still holds; otherwise return no row.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim
-- $3 cursor: text, id of the last job of the page that was read; null if the pass has to start again
-- $4 pages: int, how many pages the pass has read
update checkpointd.sources
set job_list_pass_at = case when job_list_cursor is null then job_list_attempt_at else job_list_pass_at end,
  job_list_cursor = $3::text,
  job_list_pages = $4::int
where key = $1::int
  and job_list_lease_token = $2::bigint
  and job_list_lease_expires_at is not null
returning key
