-- Pause a source for every daemon: no job of it is claimed before the pause ends. Returns the source if it is paused.
-- $1 source: int, key
-- $2 seconds: float8, how long from now
-- $3 error: text, why
-- $4 asked_ago: float8, how many seconds ago the work began that met this
--
-- The end of an earlier pause is kept if it is later. If a command has ended the pauses since $4, this one counts as
-- ended, too: the provider was asked before.
update checkpointd.sources
set state = 'paused',
  state_since = case when state = 'paused' then state_since else clock_timestamp() end,
  resume_at = greatest(
    checkpointd.valid_time(resume_at, paused_at),
    clock_timestamp() + $2::float8 * interval '1 s'
  ),
  paused_at = clock_timestamp(),
  last_error = $3::text
where key = $1::int
  and (
    resumed_at is null
    or resumed_at not between clock_timestamp() - $4::float8 * interval '1 s' and clock_timestamp()
  )
returning key
