-- Charge a source's budget for a request that no claim paid for. $1 source, $2 seconds between requests. Returns in how many
-- seconds its turn comes.
update checkpointd.sources s
set budget_at = greatest(case when s.budget_at <= clock_timestamp() + interval '1 hour' + 200 * $2::float8 * interval '1 s' then s.budget_at end,
    clock_timestamp() - greatest(1, $2::float8) * interval '1 s') + $2::float8 * interval '1 s'
where s.key = $1::int
returning extract(epoch from s.budget_at - clock_timestamp())::float8 as ahead
