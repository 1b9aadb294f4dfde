-- The procedures that save polls; job_records.sql has the one that saves job records.
--
-- Each commits itself, so that a save is one message of the client. PostgreSQL runs a statement when it has received
-- all of its parameters, and a procedure ends its transaction before the client sends anything else. So a client that
-- is suspended, or cut off in the middle of a message, holds no lock. A statement without COMMIT would keep its locks
-- until the message Sync arrives, which is sent after the one that runs the statement.
--
-- To avoid deadlocks, all transactions lock in the same order: polling rows by key, sources, the feed gate.
--
-- The names of the parameters are those of the fields in postgres/rows.py, which are passed as one array for each
-- field: the polls (`poll_`), their new and changed checkpoints (`checkpoint_`), marks, rejects and changes. A daemon
-- of the release before calls these procedures, too, while an upgrade is under way. So a procedure with other
-- parameters gets another name, and the old one stays until the release after, which drops it here.

create or replace function checkpointd.save_rejects(
  owner bigint[], digest bytea[], reason text[], raw bytea[], is_stored boolean[], most bigint
) returns void
language sql as $$
with given as (
  select reject.owner, reject.digest, reject.reason, reject.raw, reject.is_stored,
    rejects.digest is not null as is_known
  from unnest($1, $2, $3, $4, $5) as reject (owner, digest, reason, raw, is_stored)
  left join checkpointd.rejects on rejects.owner = reject.owner and rejects.digest = reject.digest
),

known as (
  select owner, count(*) as count
  from checkpointd.rejects
  where owner = any (select owner from given)
    and digest <> ''
  group by owner
),

placed as (
  select case when given.owner > 0 then given.owner end as job,
    case when given.owner < 0 then -given.owner end as source,
    given.digest, given.reason, given.raw, given.is_stored,
    given.is_known
      or row_number() over (partition by given.owner, given.is_known order by given.digest) + coalesce(known.count, 0)
        <= $6 as fits
  from given
  left join known on known.owner = given.owner
)

insert into checkpointd.rejects (job, source, digest, reason, raw, is_stored, count)
select job, source, digest, reason, raw, is_stored, 1
from placed
where fits
union all
select job, source, '', 'further items, not kept: there are too many that cannot be read', null, false, count(*)
from placed
where not fits
group by job, source
on conflict (owner, digest) do update
set count = rejects.count + excluded.count, last_seen_at = clock_timestamp(), reason = excluded.reason
$$;
comment on function checkpointd.save_rejects is
  'Stores rejects, up to a limit for each owner, which is the key of a job or the negative key of a source. The '
  'others are counted in one row for each owner, whose digest is empty.';

create or replace function checkpointd.open_feed() returns timestamptz
language plpgsql as $$
begin
  perform from checkpointd.feed_gate for no key update;
  if not found then
    raise exception 'the row of checkpointd.feed_gate is missing';
  end if;
  return clock_timestamp();
end $$;
comment on function checkpointd.open_feed is
  'Locks feed_gate until the commit, so that the seq of changes follows the order of commits, and returns the time of '
  'the changes. They are the last rows that a transaction writes.';

create or replace procedure checkpointd.save_polls(
  inout saved bigint[],
  keep boolean,
  most_rejects bigint,
  poll_job bigint[],
  poll_lease_token bigint[],
  poll_delay double precision[],
  poll_gap double precision[],
  poll_complete boolean[],
  poll_reopens boolean[],
  poll_digest bytea[],
  poll_content_digest bytea[],
  poll_absent_ids text[],
  poll_unconfirmed_steps text[],
  poll_instability int[],
  poll_unstable boolean[],
  poll_rejected int[],
  poll_error_class text[],
  poll_error text[],
  poll_newest_step bigint[],
  poll_newest_seen_at double precision[],
  poll_arrivals int[],
  poll_arrival_error_s double precision[],
  poll_first_arrival_s double precision[],
  poll_spacing_s double precision[],
  poll_spread_s double precision[],
  poll_publication_delay_s double precision[],
  poll_blames_job boolean[],
  poll_gone boolean[],
  poll_items int[],
  poll_new int[],
  poll_changed int[],
  poll_burst boolean[],
  checkpoint_job bigint[],
  checkpoint_is_new boolean[],
  checkpoint_id text[],
  checkpoint_step_number bigint[],
  checkpoint_created_at bigint[],
  checkpoint_fine_tuned_model_checkpoint text[],
  checkpoint_step double precision[],
  checkpoint_train_loss double precision[],
  checkpoint_train_mean_token_accuracy double precision[],
  checkpoint_valid_loss double precision[],
  checkpoint_valid_mean_token_accuracy double precision[],
  checkpoint_full_valid_loss double precision[],
  checkpoint_full_valid_mean_token_accuracy double precision[],
  checkpoint_extra_metrics text[],
  checkpoint_payload text[],
  checkpoint_details text[],
  mark_job bigint[],
  mark_id text[],
  mark_missing boolean[],
  reject_owner bigint[],
  reject_digest bytea[],
  reject_reason text[],
  reject_raw bytea[],
  reject_is_stored boolean[],
  change_job bigint[],
  change_kind text[],
  change_checkpoint_id text[],
  change_field text[],
  change_old_value text[],
  change_new_value text[]
)
language plpgsql as $$
#variable_conflict use_column
declare
  row_jobs bigint[];
  row_ids bigint[];
  now timestamptz;
begin
  -- The fence: lock the rows that still hold their leases. A row that another transaction has locked is left out.
  saved := array(
    select polling.job
    from checkpointd.polling
    join unnest(poll_job, poll_lease_token) as lease (job, lease_token) using (job, lease_token)
    where polling.lease_expires_at is not null
    order by polling.job
    for no key update of polling skip locked
  );
  if cardinality(saved) < cardinality(poll_job) then
    rollback;
    return;
  end if;

  -- The arrays are expanded in the select list because the from clause would store all rows first.
  insert into checkpointd.checkpoints (
    job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy,
    valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload,
    details, expires_at
  )
  select job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy,
    valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics::jsonb,
    payload::json, details::jsonb, to_timestamp((details::jsonb ->> 'expires_at')::bigint)
  from (
    select unnest(checkpoint_is_new) as is_new, unnest(checkpoint_job) as job, unnest(checkpoint_id) as id,
      unnest(checkpoint_step_number) as step_number, unnest(checkpoint_created_at) as created_at,
      unnest(checkpoint_fine_tuned_model_checkpoint) as fine_tuned_model_checkpoint, unnest(checkpoint_step) as step,
      unnest(checkpoint_train_loss) as train_loss,
      unnest(checkpoint_train_mean_token_accuracy) as train_mean_token_accuracy,
      unnest(checkpoint_valid_loss) as valid_loss,
      unnest(checkpoint_valid_mean_token_accuracy) as valid_mean_token_accuracy,
      unnest(checkpoint_full_valid_loss) as full_valid_loss,
      unnest(checkpoint_full_valid_mean_token_accuracy) as full_valid_mean_token_accuracy,
      unnest(checkpoint_extra_metrics) as extra_metrics, unnest(checkpoint_payload) as payload,
      unnest(checkpoint_details) as details
  ) as listed
  where is_new;

  -- Checkpoints of which a value changed. A null never overwrites a known value, except in details: an expiry of null
  -- says that the checkpoint does not expire any more.
  update checkpointd.checkpoints
  set step_number = coalesce(listed.step_number, checkpoints.step_number),
    created_at = coalesce(listed.created_at, checkpoints.created_at),
    fine_tuned_model_checkpoint
      = coalesce(listed.fine_tuned_model_checkpoint, checkpoints.fine_tuned_model_checkpoint),
    step = coalesce(listed.step, checkpoints.step),
    train_loss = coalesce(listed.train_loss, checkpoints.train_loss),
    train_mean_token_accuracy = coalesce(listed.train_mean_token_accuracy, checkpoints.train_mean_token_accuracy),
    valid_loss = coalesce(listed.valid_loss, checkpoints.valid_loss),
    valid_mean_token_accuracy = coalesce(listed.valid_mean_token_accuracy, checkpoints.valid_mean_token_accuracy),
    full_valid_loss = coalesce(listed.full_valid_loss, checkpoints.full_valid_loss),
    full_valid_mean_token_accuracy
      = coalesce(listed.full_valid_mean_token_accuracy, checkpoints.full_valid_mean_token_accuracy),
    extra_metrics = coalesce(
      checkpoints.extra_metrics || listed.extra_metrics::jsonb, listed.extra_metrics::jsonb, checkpoints.extra_metrics
    ),
    payload = listed.payload::json,
    details = listed.details::jsonb,
    expires_at = to_timestamp((listed.details::jsonb ->> 'expires_at')::bigint),
    last_changed_at = clock_timestamp()
  from unnest(
    checkpoint_is_new, checkpoint_job, checkpoint_id, checkpoint_step_number, checkpoint_created_at,
    checkpoint_fine_tuned_model_checkpoint, checkpoint_step, checkpoint_train_loss,
    checkpoint_train_mean_token_accuracy, checkpoint_valid_loss, checkpoint_valid_mean_token_accuracy,
    checkpoint_full_valid_loss, checkpoint_full_valid_mean_token_accuracy, checkpoint_extra_metrics,
    checkpoint_payload, checkpoint_details
  ) as listed (
    is_new, job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss,
    train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy,
    extra_metrics, payload, details
  )
  where false = any (checkpoint_is_new)
    and not listed.is_new
    and checkpoints.job = listed.job
    and checkpoints.id = listed.id;

  -- Checkpoints that are missing now, or listed again.
  update checkpointd.checkpoints
  set missing_since = case when mark.missing then clock_timestamp() end,
    is_expired = mark.missing and coalesce(checkpoints.expires_at <= clock_timestamp(), false)
  from unnest(mark_job, mark_id, mark_missing) as mark (job, id, missing)
  where checkpoints.job = mark.job
    and checkpoints.id = mark.id;

  perform checkpointd.save_rejects(
    reject_owner, reject_digest, reject_reason, reject_raw, reject_is_stored, most_rejects
  );

  perform checkpointd.summarise(array_agg(poll.job), array_agg(poll.burst))
  from unnest(poll_job, poll_new, poll_changed, poll_burst) as poll (job, new, changed, burst)
  where poll.new + poll.changed > 0
  having count(*) > 0;

  -- The rows of the table polls: one for each poll that changed something, and one for each run of equal failures.
  -- Quiet polls and failures of the source have none.
  with poll as materialized (
    select job, error_class, items, new, changed,
      case when new + changed = 0 then 'failed' when error_class is null then 'changed' else 'partial' end as outcome
    from unnest(poll_job, poll_error_class, poll_blames_job, poll_items, poll_new, poll_changed)
      as poll (job, error_class, blames_job, items, new, changed)
    where new + changed > 0
      or blames_job
  ),

  extended as (
    update checkpointd.polls
    set count = polls.count + 1, last_at = clock_timestamp(), items = poll.items
    from poll
    join checkpointd.polling on polling.job = poll.job and polling.error_class = poll.error_class
    where polls.id = polling.failure_poll
      and polls.outcome = 'failed'
      and poll.outcome = 'failed'
    returning polls.id, polls.job
  ),

  inserted as (
    insert into checkpointd.polls (job, outcome, error_class, items, new, changed)
    select poll.job, poll.outcome, poll.error_class, poll.items, poll.new, poll.changed
    from poll
    left join extended on extended.job = poll.job
    where extended.job is null
    returning id, job
  )

  select array_agg(job), array_agg(id)
  into row_jobs, row_ids
  from (select job, id from extended union all select job, id from inserted) as written;

  -- The rows of polling, which consumes the leases. A sealed job is reopened only by a complete listing, or if another
  -- poll was requested during this one (poll_again). If it stays sealed, its failures are not counted, because no
  -- later poll would end them; error_class and last_error show the last one. A failure of the source does not change
  -- the columns about the failures of the job. Only a failed poll, not a partial one, begins a run of equal failures.
  now := clock_timestamp();
  update checkpointd.polling
  set lease_expires_at = null,
    next_poll_at = case
      when polling.poll_again then polling.last_attempt_at
      when polling.next_poll_at = 'infinity' or polling.sealed_at is not null and not finished.complete then 'infinity'
      else polling.last_attempt_at + finished.delay * interval '1 s'
    end,
    settling_since = case
      when not (finished.is_news and finished.reopens and polling.settling_since < polling.last_attempt_at)
        then polling.settling_since
    end,
    sealed_at = case when not (polling.poll_again or finished.complete) then polling.sealed_at end,
    last_complete_at = case when finished.complete then now else polling.last_complete_at end,
    complete_from = case when finished.complete then polling.last_attempt_at else polling.complete_from end,
    last_success_at = case
      when finished.complete and finished.rejected = 0 then now
      else polling.last_success_at
    end,
    last_change_at = case when finished.is_news then now else polling.last_change_at end,
    quiet_polls = polling.quiet_polls + (finished.complete and not finished.is_news)::int,
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
    unstable_since = case when finished.unstable then coalesce(polling.unstable_since, now) end,
    rejected = coalesce(finished.rejected, polling.rejected),
    failures = case
      when finished.blames_job and (polling.sealed_at is null or polling.poll_again) then polling.failures + 1
      when finished.error_class is null then 0
      else polling.failures
    end,
    equal_failures = case
      when finished.blames_job and finished.error_class = polling.error_class then polling.equal_failures + 1
      when finished.blames_job then 1
      when finished.error_class is null then 0
      else polling.equal_failures
    end,
    is_gone = case
      when finished.blames_job or finished.error_class is null then finished.gone
      else polling.is_gone
    end,
    failing_since = case
      when not finished.blames_job and finished.error_class is not null then polling.failing_since
      when finished.error_class = polling.error_class then polling.failing_since
      when finished.blames_job then polling.last_attempt_at
    end,
    failure_poll = case
      when finished.blames_job and not finished.is_news then finished.poll
      when finished.error_class is not null and not finished.blames_job then polling.failure_poll
    end,
    error_class = case
      when finished.blames_job then finished.error_class
      when finished.error_class is not null then polling.error_class
    end,
    last_error = case
      when finished.blames_job then finished.error
      when finished.error_class is not null then polling.last_error
    end,
    newest_step = finished.newest_step,
    newest_seen_at = to_timestamp(finished.newest_seen_at),
    arrivals = finished.arrivals,
    arrival_error_s = finished.arrival_error_s,
    first_arrival_s = finished.first_arrival_s,
    spacing_s = finished.spacing_s,
    spread_s = finished.spread_s,
    publication_delay_s = finished.publication_delay_s,
    waited_s = case
      when finished.newest_step is not distinct from polling.newest_step then polling.waited_s
      else 0
    end,
    waiting_since = case
      when finished.newest_step is distinct from polling.newest_step and polling.waiting_since is not null
        then polling.last_attempt_at
      else polling.waiting_since
    end
  from (
    select poll.*, poll.new + poll.changed > 0 as is_news, written.id as poll
    from unnest(
      poll_job, poll_delay, poll_gap, poll_complete, poll_reopens, poll_digest, poll_content_digest, poll_absent_ids,
      poll_unconfirmed_steps, poll_instability, poll_unstable, poll_rejected, poll_error_class, poll_error,
      poll_newest_step, poll_newest_seen_at, poll_arrivals, poll_arrival_error_s, poll_first_arrival_s,
      poll_spacing_s, poll_spread_s, poll_publication_delay_s, poll_blames_job, poll_gone, poll_new, poll_changed
    ) as poll (
      job, delay, gap, complete, reopens, digest, content_digest, absent_ids, unconfirmed_steps, instability, unstable,
      rejected, error_class, error, newest_step, newest_seen_at, arrivals, arrival_error_s, first_arrival_s,
      spacing_s, spread_s, publication_delay_s, blames_job, gone, new, changed
    )
    left join unnest(row_jobs, row_ids) as written (job, id) on written.job = poll.job
  ) as finished
  where polling.job = finished.job;

  -- The feed, at the end, because it stays locked until the commit.
  if row_jobs is not null and (true = any (checkpoint_is_new) or cardinality(change_job) > 0) then
    now := checkpointd.open_feed();
    insert into checkpointd.changes (at, job, poll, kind, checkpoint_id)
    select now, listed.job, written.id, 'new', listed.id
    from (
      select unnest(checkpoint_is_new) as is_new, unnest(checkpoint_job) as job, unnest(checkpoint_id) as id,
        generate_subscripts(checkpoint_job, 1) as position
    ) as listed
    join unnest(row_jobs, row_ids) as written (job, id) on written.job = listed.job
    where listed.is_new
    order by listed.position;
    insert into checkpointd.changes (at, job, poll, kind, checkpoint_id, field, old_value, new_value)
    select now, change.job, written.id,
      case
        when change.kind = 'missing' and exists (
          select
          from checkpointd.checkpoints
          where checkpoints.job = change.job
            and checkpoints.id = change.checkpoint_id
            and checkpoints.is_expired
        )
          then 'expired'
        else change.kind
      end,
      change.checkpoint_id, change.field, change.old_value, change.new_value
    from unnest(
      change_job, change_kind, change_checkpoint_id, change_field, change_old_value, change_new_value
    ) with ordinality as change (job, kind, checkpoint_id, field, old_value, new_value, position)
    join unnest(row_jobs, row_ids) as written (job, id) on written.job = change.job
    order by change.position;
  end if;

  if keep then
    commit;
  else
    rollback;
  end if;
end $$;
comment on procedure checkpointd.save_polls is
  'Saves polls that are not quiet, consumes their leases, and commits. Saves all of them or none, and returns the '
  'jobs of those that can be saved: the others have lost their leases, or another transaction has locked their rows. '
  'If keep is false, nothing is saved.';

create or replace procedure checkpointd.save_quiet_polls(
  inout saved_job bigint[],
  inout saved_lease_token bigint[],
  inout saved_rejected int[],
  quiet_job bigint[],
  quiet_lease_token bigint[],
  quiet_gap double precision[],
  quiet_ended boolean[],
  quiet_settled boolean[],
  quiet_digest bytea[],
  quiet_content_digest bytea[],
  quiet_instability int[],
  quiet_unstable boolean[]
)
language plpgsql as $$
#variable_conflict use_column
begin
  with held as materialized (
    select polling.job, quiet.gap, quiet.ended and not polling.poll_again as ended, quiet.settled, quiet.digest,
      quiet.content_digest, quiet.instability, quiet.unstable,
      quiet.settled and polling.equal_listings >= 2 and polling.rejected = 0 and not polling.poll_again
        and (polling.next_poll_at < 'infinity' or polling.sealed_at is not null)  -- an untracked job stays so
        and polling.last_attempt_at <= clock_timestamp()  -- otherwise the clock that settled it was ahead
        and not exists (
          select
          from checkpointd.sources
          left join checkpointd.event_lists on event_lists.job = polling.job
          where sources.key = polling.source
            and sources.events_looked_at
              between clock_timestamp() - interval '1 day' and clock_timestamp() + interval '1 hour'
            and not checkpointd.events_are_read(
              event_lists.complete_from, event_lists.given_up, polling.settling_since
            )
        ) as seal
    from checkpointd.polling
    join unnest(
      quiet_job, quiet_lease_token, quiet_gap, quiet_ended, quiet_settled, quiet_digest, quiet_content_digest,
      quiet_instability, quiet_unstable
    ) as quiet (job, lease_token, gap, ended, settled, digest, content_digest, instability, unstable)
      using (job, lease_token)
    where polling.lease_expires_at is not null
    order by polling.job
    for no key update of polling skip locked
  ),

  clock as materialized (select clock_timestamp() as now),

  saved as (
    update checkpointd.polling
    set lease_expires_at = null,
      next_poll_at = case
        when polling.poll_again then polling.last_attempt_at
        when held.seal or polling.next_poll_at = 'infinity' then 'infinity'
        else polling.last_attempt_at + held.gap * interval '1 s'
      end,
      settling_since = case
        when held.ended then coalesce(polling.settling_since, polling.last_attempt_at)
        else polling.settling_since
      end,
      sealed_at = case when held.seal then clock.now end,
      equal_listings = case when held.settled then polling.equal_listings + 1 else 0 end,
      digest = case when not polling.poll_again then held.digest end,
      content_digest = coalesce(held.content_digest, polling.content_digest),
      instability = held.instability,
      unstable_since = case when held.unstable then coalesce(polling.unstable_since, clock.now) end,
      poll_again = false,
      last_complete_at = clock.now,
      complete_from = polling.last_attempt_at,
      last_success_at = case when polling.rejected = 0 then clock.now else polling.last_success_at end,
      quiet_polls = polling.quiet_polls + 1,
      gap_s = held.gap,
      failures = 0,
      equal_failures = 0,
      is_gone = false,
      failing_since = null,
      failure_poll = null,
      error_class = null,
      last_error = null
    from held
    cross join clock
    where polling.job = held.job
    returning polling.job, polling.lease_token, polling.rejected
  )

  select array_agg(job), array_agg(lease_token), array_agg(rejected)
  into saved_job, saved_lease_token, saved_rejected
  from saved;
  commit;
end $$;
comment on procedure checkpointd.save_quiet_polls is
  'Saves quiet polls, consumes their leases, and commits. Returns the jobs of those that were saved. A listing of an '
  'unstable job counts as equal if it has no news. Three equal listings in a row seal a settled job, unless the '
  'listing has items that are not stored, which a newer version may be able to read, its events were not read to '
  'their end since it ended, or another poll was requested during this one (poll_again). A row that another '
  'transaction has locked is left out.';
