-- Finish the reading of an event list, and give its lease back.
-- $1 job: bigint, key
-- $2 lease_token: bigint, from the claim
-- $3 gap: float8, seconds from the claim to the next reading
-- $4 ids: text[], ids of the newest events of the pass that has ended; null if none has
-- $5 complete: bool, whether that pass has read the list to its end
-- $6 digest: bytea, of the first page of that pass; null if the next first page must be read, whatever it has
-- $7 restart: bool, whether the interrupted pass cannot be continued
-- $8 error_class: text, of the failure; null if the reading did not fail
-- $9 error: text, the failure in words; null if the reading did not fail
--
-- The list is given up if two readings in a row say that it does not exist, or if readings have
-- failed for a week in which no pass has ended.
update checkpointd.event_lists
set lease_expires_at = null,
  due_at = attempt_at + $3::float8 * interval '1 s',
  read_from = case when $4::text[] is null then read_from else coalesce(pass_from, attempt_at) end,
  complete_from = case when $4 is null or not $5::bool then complete_from else coalesce(pass_from, attempt_at) end,
  known_ids = coalesce($4, known_ids),
  digest = case when $4 is null then digest else $6::bytea end,
  pass_from = case when $4 is null and not $7::bool then pass_from end,
  pass_is_complete = case when $4 is null and not $7 then pass_is_complete end,
  pass_ids = case when $4 is null and not $7 then pass_ids end,
  cursor = case when $4 is null and not $7 then cursor end,
  pages = case when $4 is null and not $7 then pages else 0 end,
  failures = case when $8::text is not null then failures + 1 when $4 is null then failures else 0 end,
  failing_since = case
    when $8 is not null then coalesce(failing_since, attempt_at)
    when $4 is null then failing_since
  end,
  error_class = case when $8 is null and $4 is null then error_class else $8 end,
  last_error = case when $8 is null and $4 is null then last_error else $9::text end,
  given_up = case
    when $8 is not null
      then $8 = 'missing' and failures > 0 and error_class = 'missing'
        or coalesce(failing_since < attempt_at - interval '7 days', false)
    else given_up and $4 is null
  end
where job = $1::bigint
  and lease_token = $2::bigint
  and lease_expires_at is not null
