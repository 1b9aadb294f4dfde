-- Say that a daemon's key was refused; others may go on. $1 source, $2 why.
update checkpointd.sources s
set state = 'refused', state_since = clock_timestamp(), last_error = $2::text
where s.key = $1::int and (s.state = 'ok' or s.state = 'paused' and s.resume_at <= clock_timestamp())
