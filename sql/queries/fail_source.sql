-- Set a source to refused or failing, because a daemon met this; other daemons go on.
-- $1 source: int, key
-- $2 state: text, refused or failing
-- $3 error: text, why
--
-- A pause that is not over stays, because it holds for every daemon.
update checkpointd.sources
set state = $2::text,
  state_since = case when state = $2::text then state_since else clock_timestamp() end,
  resume_at = null,
  last_error = $3::text
where key = $1::int
  and (state <> 'paused' or checkpointd.is_over(resume_at, paused_at, clock_timestamp()))
  and (state <> $2::text or last_error is distinct from $3::text)
