-- The procedure that saves the job records of a job list. It commits itself, for the reason given in saves.sql, which
-- also says in which order rows are locked. The names of its parameters are those of the fields in postgres/rows.py:
-- the records (`record_`), the statuses that changed (`status_`), and the rejects.

create or replace procedure checkpointd.save_job_records(
  inout saved bigint[],
  list_source int,
  list_lease_token bigint,
  most_rejects bigint,
  record_job bigint[],
  record_status text[],
  record_model text[],
  record_fine_tuned_model text[],
  record_created_at bigint[],
  record_finished_at bigint[],
  record_estimated_finish bigint[],
  record_trained_tokens bigint[],
  record_hyperparameters text[],
  record_error text[],
  record_metadata text[],
  record_payload text[],
  status_job bigint[],
  status_ended boolean[],
  status_waits boolean[],
  status_old_value text[],
  status_new_value text[],
  reject_owner bigint[],
  reject_digest bytea[],
  reject_reason text[],
  reject_raw bytea[],
  reject_is_stored boolean[]
)
language plpgsql as $$
#variable_conflict use_column
declare
  woken_jobs bigint[];
  turning_jobs bigint[];
  held_jobs bigint[];
  now timestamptz;
begin
  -- A new status starts or ends the settling or the waiting of a job, reopens a sealed job, and makes it due. The
  -- first status of a job makes only a sealed one due. A job that is being polled now, and had a status or a complete
  -- listing before, is due again once that poll has ended: it may have read its listing before the change. A job of
  -- which another transaction has locked a row is left out, and so is one that was untracked meanwhile.
  with locked as materialized (
    select polling.job, status.ended, status.waits, status.old_value is not null as had_status
    from checkpointd.polling
    join unnest(status_job, status_ended, status_waits, status_old_value) as status (job, ended, waits, old_value)
      using (job)
    where polling.next_poll_at < 'infinity'
      or polling.sealed_at is not null
    order by polling.job
    for no key update of polling skip locked
  ),

  woken as (
    update checkpointd.polling
    set settling_since = case when locked.ended then coalesce(polling.settling_since, clock_timestamp()) end,
      waiting_since = case when locked.waits then coalesce(polling.waiting_since, clock_timestamp()) end,
      waited_s = case
        when locked.waits or polling.waiting_since is null then polling.waited_s
        else polling.waited_s + greatest(extract(epoch from clock_timestamp() - polling.waiting_since), 0)
      end,
      sealed_at = null,
      equal_listings = 0,
      next_poll_at = case
        when locked.had_status or polling.sealed_at is not null
          then coalesce(polling.last_attempt_at, clock_timestamp())
        else polling.next_poll_at
      end,
      poll_again = polling.poll_again
        or polling.lease_expires_at is not null and (locked.had_status or polling.last_complete_at is not null)
    from locked
    where polling.job = locked.job
    returning polling.job
  )

  select coalesce(array_agg(job), '{}')
  into woken_jobs
  from woken;

  -- A record that is the first to show reinforcement learning, or no longer does, changes the default objective of its
  -- job. The row of polling is locked, so that no save of the job chooses by the former record after this one.
  with turning as materialized (
    select jobs.key as job
    from checkpointd.jobs
    join unnest(record_job, record_payload) as record (job, payload) on record.job = jobs.key
    where checkpointd.shows_reinforcement(record.payload) <> checkpointd.is_reinforcement(jobs)
  ),

  locked as materialized (
    select polling.job
    from checkpointd.polling
    join turning on turning.job = polling.job
    order by polling.job
    for no key update of polling skip locked
  )

  select coalesce(array_agg(turning.job), '{}'),
    coalesce(array_agg(turning.job) filter (where locked.job is null), '{}')
  into turning_jobs, held_jobs
  from turning
  left join locked on locked.job = turning.job;

  saved := array(
    select jobs.key
    from checkpointd.jobs
    join unnest(record_job) as record (job) on record.job = jobs.key
    where jobs.key <> all (held_jobs)
      and (jobs.key <> all (status_job) or jobs.key = any (woken_jobs))
    order by jobs.key
    for no key update of jobs skip locked
  );

  -- The fence: lock the source if its job list is still leased to this reading.
  perform
  from checkpointd.sources
  where key = list_source
    and job_list_lease_token = list_lease_token
    and job_list_lease_expires_at is not null
  for no key update;
  if not found then
    saved := null;
    rollback;
    return;
  end if;
  if cardinality(saved) < cardinality(record_job) then
    rollback;
    return;
  end if;

  -- A null never overwrites a known value.
  update checkpointd.jobs
  set status = coalesce(record.status, jobs.status),
    model = coalesce(record.model, jobs.model),
    fine_tuned_model = coalesce(record.fine_tuned_model, jobs.fine_tuned_model),
    created_at = coalesce(record.created_at, jobs.created_at),
    finished_at = coalesce(record.finished_at, jobs.finished_at),
    estimated_finish = coalesce(record.estimated_finish, jobs.estimated_finish),
    trained_tokens = coalesce(record.trained_tokens, jobs.trained_tokens),
    hyperparameters = coalesce(record.hyperparameters::json, jobs.hyperparameters),
    error = coalesce(record.error::json, jobs.error),
    metadata = coalesce(record.metadata::json, jobs.metadata),
    payload = record.payload::json,
    received_at = clock_timestamp()
  from unnest(
    record_job, record_status, record_model, record_fine_tuned_model, record_created_at, record_finished_at,
    record_estimated_finish, record_trained_tokens, record_hyperparameters, record_error, record_metadata,
    record_payload
  ) as record (
    job, status, model, fine_tuned_model, created_at, finished_at, estimated_finish, trained_tokens, hyperparameters,
    error, metadata, payload
  )
  where jobs.key = record.job;
  perform checkpointd.summarise(turning_jobs, array_fill(false, array[cardinality(turning_jobs)]));

  -- What the provider estimates, until the first checkpoint arrives. A job whose row is locked keeps its old estimate,
  -- so this never waits.
  with estimated as materialized (
    select polling.job,
      extract(
        epoch from checkpointd.unix_time(jobs.estimated_finish, interval '1 year') - jobs.tracked_at
      ) - polling.waited_s as left_s,
      checkpointd.n_epochs(jobs.hyperparameters) as n_epochs
    from checkpointd.polling
    join checkpointd.jobs on jobs.key = polling.job
    where polling.job = any (saved)
      and polling.arrivals = 0
      and jobs.estimated_finish is not null
    order by polling.job
    for no key update of polling skip locked
  )

  update checkpointd.polling
  set epoch_estimate_s = estimated.left_s / estimated.n_epochs::float8
  from estimated
  where polling.job = estimated.job
    and estimated.left_s > 0
    and estimated.n_epochs ~ '^[1-9][0-9]{0,5}$';

  perform checkpointd.save_rejects(
    reject_owner, reject_digest, reject_reason, reject_raw, reject_is_stored, most_rejects
  );

  -- The feed, at the end, because it stays locked until the commit.
  if cardinality(status_job) > 0 then
    now := checkpointd.open_feed();
    insert into checkpointd.changes (at, job, kind, field, old_value, new_value)
    select now, status.job, 'status', 'status', status.old_value, status.new_value
    from unnest(status_job, status_old_value, status_new_value)
      with ordinality as status (job, old_value, new_value, position)
    order by status.position;
  end if;
  commit;
end $$;
comment on procedure checkpointd.save_job_records is
  'Saves job records, the changes of their statuses, and rejects, if the job list still has the lease, and commits. '
  'Saves all of them or none, and returns the jobs of the records that can be saved: another transaction has locked '
  'the rows of the others, or they were untracked. Returns null if the lease was lost.';
