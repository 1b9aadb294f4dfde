-- Finish the reading of a job list, and give its lease back.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim
-- $3 gap: float8, seconds from the claim to the next reading
-- $4 complete: bool, whether a pass has read the list to its end
-- $5 error: text, why it could not be read; null if it could
--
-- The start of a pass is corrected if it lies in the future: the server's clock was set back since.
update checkpointd.sources
set job_list_lease_expires_at = null,
  job_list_due_at = job_list_attempt_at + $3::float8 * interval '1 s',
  job_list_complete_at = case when $4::bool then clock_timestamp() else job_list_complete_at end,
  job_list_complete_from = case
    when not $4 then job_list_complete_from
    else checkpointd.not_after(
      case when job_list_cursor is null then job_list_attempt_at else job_list_pass_at end, clock_timestamp()
    )
  end,
  job_list_cursor = case when not $4 then job_list_cursor end,
  job_list_pages = case when $4 then 0 else job_list_pages end,
  job_list_error = $5::text
where key = $1::int
  and job_list_lease_token = $2::bigint
  and job_list_lease_expires_at is not null
