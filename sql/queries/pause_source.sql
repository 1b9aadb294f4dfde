-- Pause a source for every daemon: no job of it is claimed before the pause ends.
-- $1 source: int, key
-- $2 seconds: float8, how long from now
-- $3 error: text, why
--
-- The end of an earlier pause is kept if it is later, but ignored if it is more than an hour from now (see
-- claim_due_jobs.sql).
update checkpointd.sources
set state = 'paused',
  state_since = case when state = 'paused' then state_since else clock_timestamp() end,
  resume_at = greatest(
    case when resume_at <= clock_timestamp() + interval '1 hour' then resume_at end,
    clock_timestamp() + $2::float8 * interval '1 s'
  ),
  last_error = $3::text
where key = $1::int
