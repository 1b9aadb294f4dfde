-- Charge one request to the rate limit of a source, and return how many seconds the request has to wait.
-- $1 source: int, key
-- $2 request_interval: float8, seconds between requests
--
-- A claim charges the first request of each poll. Further pages, retries and job lists are charged here.
update checkpointd.sources
set budget_at = $2::float8 * interval '1 s' + checkpointd.spent_until(
    checkpointd.valid_time(budget_at, charged_at), $2::float8 * interval '1 s', clock_timestamp()
  ),
  charged_at = clock_timestamp()
where key = $1::int
returning extract(epoch from budget_at - clock_timestamp())::float8 as ahead
