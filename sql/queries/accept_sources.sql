-- An answer was accepted: a source that was refused, or whose pause is over, is well again. $1 sources.
update checkpointd.sources s set state = 'ok', state_since = clock_timestamp(), resume_at = null
where s.key = any ($1::int[]) and s.state <> 'ok' and (s.resume_at is null or s.resume_at <= clock_timestamp())
returning s.name
