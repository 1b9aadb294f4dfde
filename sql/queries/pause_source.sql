-- Stop claims of a source for every daemon. $1 source, $2 seconds, $3 why.
update checkpointd.sources s
set state = 'paused', state_since = case when s.state = 'paused' then s.state_since else clock_timestamp() end,
  resume_at = greatest(case when s.resume_at <= clock_timestamp() + interval '1 hour' then s.resume_at end,
    clock_timestamp() + $2::float8 * interval '1 s'), last_error = $3::text
where s.key = $1::int
