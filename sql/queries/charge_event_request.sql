-- Charge one request for events to the rate limit of a source, and return a row if it may be made now.
-- $1 source: int, key
-- $2 request_interval: float8, seconds between requests
--
-- Polls come first: while one is due, only a tenth of the rate limit is for events. If that time is further ahead than
-- it was ever set, the server's clock was set back since.
update checkpointd.sources
set budget_at = $2::float8 * interval '1 s' + checkpointd.spent_until(
    checkpointd.valid_time(budget_at, charged_at), $2::float8 * interval '1 s', clock_timestamp()
  ),
  charged_at = clock_timestamp(),
  events_budget_at = clock_timestamp() + 10 * $2::float8 * interval '1 s'
where key = $1::int
  and checkpointd.spent_until(
    checkpointd.valid_time(budget_at, charged_at), $2::float8 * interval '1 s', clock_timestamp()
  ) + $2::float8 * interval '1 s' <= clock_timestamp()
  and (
    (events_budget_at - clock_timestamp() between interval '0' and 10 * $2::float8 * interval '1 s') is not true
    or not exists (
      select
      from checkpointd.polling
      where polling.source = sources.key
        and polling.next_poll_at <= clock_timestamp()
        and polling.lease_expires_at is null
    )
  )
returning key
