-- The functions behind track, untrack and resync, and the view that shows who called them.
--
-- The functions in schema checkpointd change many jobs at once. The commands call them, with the rights of their own
-- role. The functions in schema fine_tuning do the same for one job, with the rights of the functions' owner, so that
-- the role checkpointd_operator can call them. Rows of polling are locked in the order of their keys and before rows
-- of jobs, as everywhere.

create or replace function checkpointd.track_jobs(source int, ids text[]) returns setof bigint
language sql as $$
with locked as materialized (
  select polling.job
  from checkpointd.polling
  join checkpointd.jobs on jobs.key = polling.job
  where jobs.source = $1
    and jobs.id = any ($2)
  order by polling.job
  for no key update of polling
),

-- The condition on the count, which is always true, makes PostgreSQL lock the rows of polling first.
tracked as (
  insert into checkpointd.jobs (source, id, tracked_by)
  select $1, given.id, 'operator'
  from (select distinct id from unnest($2) as given (id)) as given
  where (select count(*) from locked) >= 0
  order by given.id
  on conflict (source, id) do update
  set untracked_at = null, tracked_at = clock_timestamp(), tracked_by = excluded.tracked_by
  where jobs.untracked_at is not null
  returning key
),

scheduled as (
  insert into checkpointd.polling (job, source)
  select key, $1
  from tracked
  order by key
  on conflict (job) do update
  set next_poll_at = coalesce(polling.last_attempt_at, clock_timestamp()),
    settling_since = null,
    sealed_at = null,
    equal_listings = 0,
    digest = null,
    instability = 0,
    unstable_since = null,
    waited_s = 0,
    waiting_since = case when polling.waiting_since is not null then clock_timestamp() end,
    epoch_estimate_s = null,
    poll_again = polling.lease_expires_at is not null
  returning job
)

insert into checkpointd.operations (job, operation)
select job, 'track'
from scheduled
order by job
returning job
$$;
comment on function checkpointd.track_jobs is
  'Tracks jobs for the first time or again, and returns their keys. Jobs that are tracked already are left as they '
  'are.';

create or replace function checkpointd.untrack_jobs(jobs bigint[]) returns setof bigint
language sql as $$
with locked as (
  select polling.job
  from checkpointd.polling
  where polling.job = any ($1)
  order by polling.job
  for no key update
),

stopped as (
  update checkpointd.polling
  set next_poll_at = 'infinity', sealed_at = null, poll_again = false
  from locked
  where polling.job = locked.job
),

untracked as (
  update checkpointd.jobs
  set untracked_at = clock_timestamp()
  from locked
  where jobs.key = locked.job
    and jobs.untracked_at is null
  returning jobs.key
)

insert into checkpointd.operations (job, operation)
select key, 'untrack'
from untracked
order by key
returning job
$$;
comment on function checkpointd.untrack_jobs is
  'Stops polling jobs, and returns the keys of those that were tracked. What is stored stays, and a poll that is '
  'under way is still saved.';

create or replace function checkpointd.resync_jobs(jobs bigint[]) returns setof bigint
language sql as $$
with locked as (
  select polling.job
  from checkpointd.polling
  where polling.job = any ($1)
    and (polling.next_poll_at < 'infinity' or polling.sealed_at is not null)  -- false for an untracked job
  order by polling.job
  for no key update
),

due as (
  update checkpointd.polling
  set next_poll_at = coalesce(polling.last_attempt_at, clock_timestamp()),
    sealed_at = null,
    equal_listings = 0,
    digest = null,
    instability = 0,
    unstable_since = null,
    poll_again = polling.lease_expires_at is not null
  from locked
  where polling.job = locked.job
  returning polling.job
)

insert into checkpointd.operations (job, operation)
select job, 'resync'
from due
order by job
returning job
$$;
comment on function checkpointd.resync_jobs is
  'Makes tracked jobs due at once, even if they are sealed, so that their next listing is compared in full. Returns '
  'their keys.';

create or replace function checkpointd.discover_jobs(source int, ids text[]) returns setof bigint
language plpgsql as $$
#variable_conflict use_column
declare
  new record;
begin
  perform set_config('lock_timeout', '1ms', true);
  for new in
    select distinct listed.id
    from unnest(ids) as listed (id)
    join checkpointd.sources on sources.key = discover_jobs.source
    where not exists (
      select from checkpointd.jobs where jobs.source = discover_jobs.source and jobs.id = listed.id
    )
    order by listed.id
  loop
    begin
      insert into checkpointd.jobs (source, id, tracked_by)
      values (discover_jobs.source, new.id, 'discovery')
      on conflict do nothing
      returning key into new;
      if found then
        insert into checkpointd.polling (job, source) values (new.key, discover_jobs.source);
        return next new.key;
      end if;
    exception when lock_not_available then
      null;  -- Another transaction is tracking this job.
    end;
  end loop;
end $$;
comment on function checkpointd.discover_jobs is
  'Tracks those of the listed jobs that were never tracked, and returns their keys. A job that an unfinished '
  'transaction tracks is left out, because an insert cannot skip a locked row: it waits for 1 ms.';

create or replace function checkpointd.rename_source(old_name text, new_name text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  renamed int;
  replaced int;
begin
  perform
  from checkpointd.sources
  where name in (old_name, new_name)
  order by key
  for update;
  select key into renamed from checkpointd.sources where name = old_name;
  select key into replaced from checkpointd.sources where name = new_name;
  if renamed is null then
    -- It may have been renamed already, by a call whose answer was lost.
    if exists (select from checkpointd.sources where key = replaced and old_name = any (former_names)) then
      return 'renamed';
    end if;
    return 'unknown';
  elsif old_name = new_name then
    return 'renamed';
  elsif exists (select from checkpointd.jobs where source = replaced) then
    return 'occupied';
  end if;

  -- A daemon with the new name in its settings has registered it already. It notices within seconds that this row is
  -- replaced. The rejects that belong to no job move, and its findings: one that both have open is closed.
  insert into checkpointd.rejects (source, digest, reason, raw, is_stored, first_seen_at, last_seen_at, count)
  select renamed, digest, reason, raw, is_stored, first_seen_at, last_seen_at, count
  from checkpointd.rejects
  where owner = -replaced
  on conflict (owner, digest) do update
  set count = rejects.count + excluded.count,
    first_seen_at = least(rejects.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(rejects.last_seen_at, excluded.last_seen_at);
  delete from checkpointd.rejects where owner = -replaced;
  update checkpointd.findings
  set source = renamed,
    until = case
      when kind in (
        select other.kind
        from checkpointd.findings as other
        where other.source = renamed and other.job is null and other.until is null
      ) then coalesce(until, clock_timestamp())
      else until
    end
  where source = replaced;
  delete from checkpointd.sources where key = replaced;

  update checkpointd.sources
  set former_names = array_remove(former_names, new_name)
  where new_name = any (former_names);
  update checkpointd.sources
  set name = new_name, former_names = former_names || old_name
  where key = renamed;
  return 'renamed';
end $$;
comment on function checkpointd.rename_source is
  'Renames a source, with its jobs and history. A source that has the new name already is replaced if it has no jobs. '
  'Returns renamed; unknown if there is no source with the old name; occupied if a source with jobs has the new name. '
  'It is a security definer function, because the role checkpointd may not delete the replaced row.';
revoke execute on function checkpointd.rename_source(text, text) from public;

create or replace function checkpointd.be_brief() returns void
language plpgsql as $$
begin
  perform set_config('idle_in_transaction_session_timeout', '3s', true);
end $$;
comment on function checkpointd.be_brief is
  'Makes the server end this session if it leaves the current transaction idle for 3 seconds, because polls may wait '
  'for its locks.';

create or replace function checkpointd.named_job(id text, source text, only_tracked boolean) returns bigint
language plpgsql stable as $$
#variable_conflict use_column
declare
  keys bigint[];
  names text;
begin
  select array_agg(jobs.key), string_agg(sources.name, ', ' order by sources.name)
  into keys, names
  from checkpointd.jobs
  join checkpointd.sources on sources.key = jobs.source
  where jobs.id = named_job.id
    and (named_job.source is null or sources.name = named_job.source)
    and (jobs.untracked_at is null or not named_job.only_tracked);
  if keys is null then
    raise exception 'job % is not %',
      concat_ws(' of source ', coalesce('"' || named_job.id || '"', 'null'), '"' || named_job.source || '"'),
      case when only_tracked then 'tracked' else 'known' end
      using errcode = 'no_data_found', hint = case
        when only_tracked then 'The view fine_tuning.freshness lists the tracked jobs.'
        else 'The view fine_tuning.jobs lists the jobs.'
      end;
  elsif cardinality(keys) > 1 then
    raise exception 'job "%" is % in more than one source', named_job.id,
      case when only_tracked then 'tracked' else 'known' end
      using errcode = 'invalid_parameter_value', hint = format('Name one of these sources: %s.', names);
  end if;
  return keys[1];
end $$;
comment on function checkpointd.named_job is
  'Returns the key of the job with this id, in the given source or, if that is null, in any source. With '
  'only_tracked, jobs that are no longer tracked do not count. Raises an error if there is none or more than one.';
drop function if exists checkpointd.tracked_job(text, text);  -- replaced by named_job

create or replace function fine_tuning.track(job text, source text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  matching record;
begin
  select count(*) as count, string_agg(sources.name, ', ' order by sources.name) as names, min(sources.key) as key
  into matching
  from checkpointd.sources
  where track.source is null
    or sources.name = track.source;
  if matching.count = 0 then
    raise exception '%', coalesce('source "' || track.source || '" does not exist', 'no source exists yet')
      using errcode = 'invalid_parameter_value',
        hint = 'A daemon stores the sources of its settings when it starts.';
  elsif matching.count > 1 then
    raise exception 'more than one source exists'
      using errcode = 'invalid_parameter_value', hint = format('Name one of these sources: %s.', matching.names);
  end if;
  -- The id becomes part of a URL. JOB_ID in domain/job.py is the same pattern.
  if not coalesce(track.job ~ '^(?!sk[-_]|ftckpt_)[A-Za-z0-9][A-Za-z0-9._~:@=+-]{0,255}$', false) then
    raise exception 'invalid job id: %', coalesce('"' || left(track.job, 80) || '"', 'null')
      using errcode = 'invalid_parameter_value', hint = 'The id of a fine-tuning job looks like "ftjob-abc123".';
  end if;
  perform checkpointd.be_brief();
  return (select count(*) > 0 from checkpointd.track_jobs(matching.key, array[track.job]));
end $$;
comment on function fine_tuning.track is
  'Tracks a job of the given source, or of the only source if none is given, as the command track does. Returns false '
  'if the job was tracked already.';

create or replace function fine_tuning.untrack(job text, source text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.untrack_jobs(array[checkpointd.named_job(job, source, true)]);
end $$;
comment on function fine_tuning.untrack is 'Stops polling a job, as the command untrack does. What is stored stays.';

create or replace function fine_tuning.resync(job text, source text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.resync_jobs(array[checkpointd.named_job(job, source, true)]);
end $$;
comment on function fine_tuning.resync is
  'Makes a job due at once, even if it is sealed, so that its next listing is compared in full, as the command resync '
  'does.';

revoke execute on function
  fine_tuning.track(text, text), fine_tuning.untrack(text, text), fine_tuning.resync(text, text)
from public;

create or replace view fine_tuning.operations as
select operations.at, operations.operation, sources.name as source, jobs.id as fine_tuning_job_id, operations.role
from checkpointd.operations
join checkpointd.jobs on jobs.key = operations.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.operations is
  'One row for each job that a person tracked, untracked or resynced, or whose objective a person set, by a command '
  'or by SQL.';
comment on column fine_tuning.operations.at is 'Time of the operation.';
comment on column fine_tuning.operations.operation is
  'track (the job was not tracked before), untrack (it was), resync or objective (it was set).';
comment on column fine_tuning.operations.source is 'Source of the job.';
comment on column fine_tuning.operations.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.operations.role is
  'Role that logged in. For a command, this is the role of its database URL, which several people may share.';
