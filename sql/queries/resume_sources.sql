-- End the pauses of sources, and let every daemon send requests to them at once. Returns the names.
-- $1 sources: int[], keys
-- $2 begun_before: float8, how many seconds ago a pause must have been set; one that was set later stays
--
-- A pause that was set in the future ends, too: the server's clock was set back since.
update checkpointd.sources
set state = case when state = 'paused' then 'ok' else state end,
  state_since = case when state = 'paused' then clock_timestamp() else state_since end,
  resume_at = null,
  resumed_at = clock_timestamp(),
  job_list_due_at = case when state = 'ok' then job_list_due_at else least(job_list_due_at, clock_timestamp()) end
where key = any ($1::int[])
  and (
    state <> 'paused'
    or paused_at not between clock_timestamp() - $2::float8 * interval '1 s' and clock_timestamp()
  )
returning name
