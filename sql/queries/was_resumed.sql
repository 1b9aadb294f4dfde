-- Return whether a command has let all daemons send requests to a source again, within the last seconds.
-- $1 source: int, key
-- $2 seconds: float8
select exists (
  select from checkpointd.sources
  where key = $1::int
    and resumed_at between clock_timestamp() - $2::float8 * interval '1 s' and clock_timestamp()
) as resumed
