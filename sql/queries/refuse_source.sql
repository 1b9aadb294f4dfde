-- Set a source to refused, because it rejected the key of a daemon; other daemons go on.
-- $1 source: int, key
-- $2 error: text, why
--
-- A pause that is not over stays, because it holds for every daemon.
update checkpointd.sources
set state = 'refused', state_since = clock_timestamp(), last_error = $2::text
where key = $1::int
  and (state = 'ok' or state = 'paused' and resume_at <= clock_timestamp())
