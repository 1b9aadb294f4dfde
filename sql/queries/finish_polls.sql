-- End compared, broken-off and failed polls, and consume their leases; the rows are locked by the fence. $1 jobs,
-- $2 seconds to the next poll, $3 the cadence's gap, $4 whether complete, $5 whether anything changed, $6 whether that says that
-- a job goes on which was thought to have ended, $7 digests (null: compare in full again), $8 absent ids joined by newline,
-- $9 rejected items (null: none was read), $10 error classes, $11 errors, $12 rows of polls, $13 newest steps (null: no newer
-- one), $14 spacings, $15 spreads, $16 whether the failure is the job's, $17 whether it is gone. A sealed job stays so unless a
-- complete listing says otherwise.
with clock as materialized (select clock_timestamp() as t)
update checkpointd.polling p
set lease_expires_at = null,
  next_poll_at = case when p.poll_again then clock.t
    when p.next_poll_at = 'infinity' or p.sealed_at is not null and not u.complete then 'infinity'
    else p.last_attempt_at + u.delay * interval '1 s' end,
  settling_since = case when not (u.reopens and p.settling_since < p.last_attempt_at) then p.settling_since end,
  sealed_at = case when p.poll_again or u.complete then null else p.sealed_at end,
  last_complete_at = case when u.complete then clock.t else p.last_complete_at end,
  last_success_at = case when u.complete and u.rejected = 0 then clock.t else p.last_success_at end,
  last_change_at = case when u.changed then clock.t else p.last_change_at end,
  quiet_polls = p.quiet_polls + (u.complete and not u.changed)::int,
  equal_listings = case when u.complete then 0 else p.equal_listings end,
  gap_s = u.gap,
  digest = case when p.poll_again then null when u.rejected is null then p.digest else u.digest end, poll_again = false,
  absent_ids = case when u.rejected is null then p.absent_ids else string_to_array(u.absent_ids, E'\n') end,
  rejected = coalesce(u.rejected, p.rejected),
  failures = case when u.blames_job then p.failures + 1 when u.error_class is null then 0 else p.failures end,
  equal_failures = case when u.blames_job then case when u.error_class = p.error_class then p.equal_failures + 1 else 1 end
    when u.error_class is null then 0 else p.equal_failures end,
  is_gone = case when u.blames_job or u.error_class is null then u.gone else p.is_gone end,
  failing_since = case when not u.blames_job and u.error_class is not null or u.error_class = p.error_class then p.failing_since
    when u.blames_job then p.last_attempt_at end,
  failure_poll = case when u.blames_job then u.poll when u.error_class is not null then p.failure_poll end,
  error_class = case when u.blames_job then u.error_class when u.error_class is not null then p.error_class end,
  last_error = case when u.blames_job then u.error when u.error_class is not null then p.last_error end,
  newest_step = coalesce(u.newest_step, p.newest_step),
  newest_seen_at = case when u.newest_step is null then p.newest_seen_at else p.last_attempt_at end,
  spacing_s = u.spacing_s, spread_s = u.spread_s
from clock, unnest($1::bigint[], $2::float8[], $3::float8[], $4::bool[], $5::bool[], $6::bool[], $7::bytea[], $8::text[],
  $9::int[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::float8[], $15::float8[], $16::bool[], $17::bool[])
  as u (job, delay, gap, complete, changed, reopens, digest, absent_ids, rejected, error_class, error, poll, newest_step, spacing_s, spread_s, blames_job, gone)
where p.job = u.job
returning p.job
