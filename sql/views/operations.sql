-- The functions behind track, untrack and resync.
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
)

insert into checkpointd.polling (job, source)
select key, $1
from tracked
order by key
on conflict (job) do update
set next_poll_at = clock_timestamp(),
  settling_since = null,
  sealed_at = null,
  equal_listings = 0,
  digest = null,
  instability = 0,
  unstable_since = null,
  poll_again = polling.lease_expires_at is not null
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
)

update checkpointd.jobs
set untracked_at = clock_timestamp()
from locked
where jobs.key = locked.job
  and jobs.untracked_at is null
returning jobs.key
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
)

update checkpointd.polling
set next_poll_at = clock_timestamp(),
  sealed_at = null,
  equal_listings = 0,
  digest = null,
  instability = 0,
  unstable_since = null,
  poll_again = polling.lease_expires_at is not null
from locked
where polling.job = locked.job
returning polling.job
$$;
comment on function checkpointd.resync_jobs is
  'Makes tracked jobs due at once, even if they are sealed, so that their next listing is compared in full. Returns '
  'their keys.';

create or replace function checkpointd.be_brief() returns void
language plpgsql as $$
begin
  perform set_config('idle_in_transaction_session_timeout', '3s', true);
end $$;
comment on function checkpointd.be_brief is
  'Makes the server end this session if it leaves the current transaction idle for 3 seconds, because polls may wait '
  'for its locks.';

create or replace function checkpointd.tracked_job(id text, source text) returns bigint
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
  where jobs.id = tracked_job.id
    and (tracked_job.source is null or sources.name = tracked_job.source)
    and jobs.untracked_at is null;
  if keys is null then
    raise exception 'job % is not tracked',
      concat_ws(' of source ', coalesce('"' || tracked_job.id || '"', 'null'), '"' || tracked_job.source || '"')
      using errcode = 'no_data_found', hint = 'The view fine_tuning.freshness lists the tracked jobs.';
  elsif cardinality(keys) > 1 then
    raise exception 'job "%" is tracked in more than one source', tracked_job.id
      using errcode = 'invalid_parameter_value', hint = format('Name one of these sources: %s.', names);
  end if;
  return keys[1];
end $$;
comment on function checkpointd.tracked_job is
  'Returns the key of the tracked job with this id, in the given source or, if that is null, in any source. Raises an '
  'error if there is none or more than one.';

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
  perform checkpointd.untrack_jobs(array[checkpointd.tracked_job(job, source)]);
end $$;
comment on function fine_tuning.untrack is 'Stops polling a job, as the command untrack does. What is stored stays.';

create or replace function fine_tuning.resync(job text, source text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.resync_jobs(array[checkpointd.tracked_job(job, source)]);
end $$;
comment on function fine_tuning.resync is
  'Makes a job due at once, even if it is sealed, so that its next listing is compared in full, as the command resync '
  'does.';

revoke execute on function
  fine_tuning.track(text, text), fine_tuning.untrack(text, text), fine_tuning.resync(text, text)
from public;
