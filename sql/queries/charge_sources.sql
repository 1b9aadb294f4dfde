-- Charge requests beyond the one that a claim paid for. $1 sources, $2 requests, $3 seconds between requests by its budget.
update checkpointd.sources s
set budget_at = greatest(case when s.budget_at <= clock_timestamp() + interval '1 hour' + 200 * u.emission * interval '1 s' then s.budget_at end,
    clock_timestamp() - greatest(1, u.emission) * interval '1 s') + u.n * u.emission * interval '1 s'
from unnest($1::int[], $2::int[], $3::float8[]) as u (source, n, emission) where s.key = u.source
