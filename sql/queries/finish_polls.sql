-- Finish polls that were compared, broken off or failed, and consume their leases.
-- $1 job: bigint[], key
-- $2 delay: float8[], seconds from the claim to the next poll
-- $3 gap: float8[], the poll gap of the cadence in seconds, without back-off
-- $4 complete: bool[], whether the listing is complete
-- $5 changed: bool[], whether the poll changed a stored checkpoint or added one
-- $6 reopens: bool[], whether a change shows that a job which seemed to have ended goes on
-- $7 digest: bytea[], of the listing; null if the next one must be compared in full
-- $8 content_digest: bytea[], of the listing; null if it was not read or is incomplete
-- $9 absent_ids: text[], ids of known checkpoints that the listing lacks, joined by newlines; or null
-- $10 unconfirmed_steps: text[], unknown steps of an unstable job to confirm, joined by newlines; or null
-- $11 instability: int[], the score of the job after this poll
-- $12 unstable: bool[], whether the job is unstable with this score
-- $13 rejected: int[], items of which nothing could be stored; null if no listing was compared
-- $14 error_class: text[], of the failure; null if the poll did not fail
-- $15 error: text[], the failure in words; null if the poll did not fail
-- $16 poll: bigint[], row of polls; null if the poll has none
-- $17 newest_step: bigint[], arrival history: largest step; null if it is not larger than before
-- $18 spacing_s: float8[], arrival history: seconds between new checkpoints; null if unknown
-- $19 spread_s: float8[], arrival history: variation of the spacing in seconds; null if unknown
-- $20 blames_job: bool[], whether the failure counts against the job and not against its source
-- $21 gone: bool[], whether the provider has not found the job for a long time
--
-- fence_polls.sql has locked the rows. A sealed job is reopened only by a complete listing, or if another poll was
-- requested during this one (poll_again). A failure of the source does not change the columns about the failures of
-- the job.
with clock as materialized (select clock_timestamp() as now)

update checkpointd.polling
set lease_expires_at = null,
  next_poll_at = case
    when polling.poll_again then clock.now
    when polling.next_poll_at = 'infinity' or polling.sealed_at is not null and not finished.complete then 'infinity'
    else polling.last_attempt_at + finished.delay * interval '1 s'
  end,
  settling_since = case
    when not (finished.reopens and polling.settling_since < polling.last_attempt_at) then polling.settling_since
  end,
  sealed_at = case when not (polling.poll_again or finished.complete) then polling.sealed_at end,
  last_complete_at = case when finished.complete then clock.now else polling.last_complete_at end,
  last_success_at = case
    when finished.complete and finished.rejected = 0 then clock.now
    else polling.last_success_at
  end,
  last_change_at = case when finished.changed then clock.now else polling.last_change_at end,
  quiet_polls = polling.quiet_polls + (finished.complete and not finished.changed)::int,
  equal_listings = case when finished.complete then 0 else polling.equal_listings end,
  gap_s = finished.gap,
  digest = case
    when polling.poll_again then null
    when finished.rejected is null then polling.digest
    else finished.digest
  end,
  content_digest = coalesce(finished.content_digest, polling.content_digest),
  poll_again = false,
  absent_ids = case
    when finished.rejected is null then polling.absent_ids
    else string_to_array(finished.absent_ids, E'\n')
  end,
  unconfirmed_steps = case
    when finished.rejected is null then polling.unconfirmed_steps
    else string_to_array(finished.unconfirmed_steps, E'\n')::bigint[]
  end,
  instability = finished.instability,
  unstable_since = case when finished.unstable then coalesce(polling.unstable_since, clock.now) end,
  rejected = coalesce(finished.rejected, polling.rejected),
  failures = case
    when finished.blames_job then polling.failures + 1
    when finished.error_class is null then 0
    else polling.failures
  end,
  equal_failures = case
    when finished.blames_job and finished.error_class = polling.error_class then polling.equal_failures + 1
    when finished.blames_job then 1
    when finished.error_class is null then 0
    else polling.equal_failures
  end,
  is_gone = case when finished.blames_job or finished.error_class is null then finished.gone else polling.is_gone end,
  failing_since = case
    when not finished.blames_job and finished.error_class is not null then polling.failing_since
    when finished.error_class = polling.error_class then polling.failing_since
    when finished.blames_job then polling.last_attempt_at
  end,
  failure_poll = case
    when finished.blames_job then finished.poll
    when finished.error_class is not null then polling.failure_poll
  end,
  error_class = case
    when finished.blames_job then finished.error_class
    when finished.error_class is not null then polling.error_class
  end,
  last_error = case
    when finished.blames_job then finished.error
    when finished.error_class is not null then polling.last_error
  end,
  newest_step = coalesce(finished.newest_step, polling.newest_step),
  newest_seen_at = case when finished.newest_step is null then polling.newest_seen_at else polling.last_attempt_at end,
  spacing_s = finished.spacing_s,
  spread_s = finished.spread_s
from unnest(
  $1::bigint[], $2::float8[], $3::float8[], $4::bool[], $5::bool[], $6::bool[], $7::bytea[], $8::bytea[], $9::text[],
  $10::text[], $11::int[], $12::bool[], $13::int[], $14::text[], $15::text[], $16::bigint[], $17::bigint[],
  $18::float8[], $19::float8[], $20::bool[], $21::bool[]
) as finished (
  job, delay, gap, complete, changed, reopens, digest, content_digest, absent_ids, unconfirmed_steps,
  instability, unstable, rejected, error_class, error, poll, newest_step, spacing_s, spread_s, blames_job, gone
)
cross join clock
where polling.job = finished.job
returning polling.job
