-- What operators do. The commands track, untrack and resync call the functions over many jobs at once, with the rights of
-- their own role; the role checkpointd_operator calls those of schema fine_tuning, which do it for one job with the
-- rights of their owner. Whoever locks rows of polling, here as everywhere, locks them by key, and before jobs.
create or replace function checkpointd.track_jobs(source int, ids text[]) returns setof bigint
language sql as $$
  with locked as materialized (
    select p.job from checkpointd.polling p join checkpointd.jobs j on j.key = p.job
    where j.source = $1 and j.id = any ($2) order by p.job for no key update of p),
  chosen as (
    insert into checkpointd.jobs (source, id, tracked_by)
    select $1, a.id, 'operator' from (select distinct id from unnest($2) as a (id)) a
    where (select count(*) from locked) >= 0 order by a.id
    on conflict (source, id) do update
    set untracked_at = null, tracked_at = clock_timestamp(), tracked_by = excluded.tracked_by
    where jobs.untracked_at is not null
    returning key)
  insert into checkpointd.polling (job, source)
  select key, $1 from chosen order by key
  on conflict (job) do update
  set next_poll_at = clock_timestamp(), settling_since = null, sealed_at = null, equal_listings = 0, digest = null,
    poll_again = polling.lease_expires_at is not null
  returning job
$$;
comment on function checkpointd.track_jobs is 'Tracks jobs, anew or again, leaves those alone that are tracked, and returns the keys of the others.';

create or replace function checkpointd.untrack_jobs(jobs bigint[]) returns setof bigint
language sql as $$
  with locked as (
    select p.job from checkpointd.polling p where p.job = any ($1) order by p.job for no key update),
  stopped as (
    update checkpointd.polling p set next_poll_at = 'infinity', sealed_at = null, poll_again = false from locked
    where p.job = locked.job)
  update checkpointd.jobs j set untracked_at = clock_timestamp() from locked
  where j.key = locked.job and j.untracked_at is null
  returning j.key
$$;
comment on function checkpointd.untrack_jobs is 'Stops polling jobs and returns the keys of those that were tracked. Rows stay; a poll under way is still saved.';

create or replace function checkpointd.resync_jobs(jobs bigint[]) returns setof bigint
language sql as $$
  with locked as (
    select p.job from checkpointd.polling p
    where p.job = any ($1) and (p.next_poll_at < 'infinity' or p.sealed_at is not null)  -- an untracked one has neither
    order by p.job for no key update)
  update checkpointd.polling p
  set next_poll_at = clock_timestamp(), sealed_at = null, equal_listings = 0, digest = null,
    poll_again = p.lease_expires_at is not null
  from locked where p.job = locked.job
  returning p.job
$$;
comment on function checkpointd.resync_jobs is 'Has tracked jobs compared in full again, at once, reopens those that are sealed, and returns their keys.';

create or replace function checkpointd.be_brief() returns void
language plpgsql as $$
begin
  perform set_config('idle_in_transaction_session_timeout', '3s', true);
end $$;
comment on function checkpointd.be_brief is 'Ends this session if its transaction is left open: it holds a lock that polls wait for.';

create or replace function checkpointd.tracked_job(id text, source text) returns bigint
language plpgsql stable as $$
#variable_conflict use_column
declare
  keys bigint[];
  sources text;
begin
  select array_agg(j.key), string_agg(s.name, ', ' order by s.name) into keys, sources
  from checkpointd.jobs j join checkpointd.sources s on s.key = j.source
  where j.id = tracked_job.id and (tracked_job.source is null or s.name = tracked_job.source) and j.untracked_at is null;
  if keys is null then
    raise exception '% is not tracked', concat_ws(' of source ', coalesce(tracked_job.id, 'null'), tracked_job.source)
      using errcode = 'no_data_found', hint = 'fine_tuning.jobs shows what is.';
  elsif cardinality(keys) > 1 then
    raise exception '% is in several sources: name one of %', tracked_job.id, sources using errcode = 'invalid_parameter_value';
  end if;
  return keys[1];
end $$;
comment on function checkpointd.tracked_job is 'The key of the one tracked job of this id, in this source or, where null, in any.';

create or replace function fine_tuning.track(job text, source text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  known record;
begin
  select count(*), string_agg(s.name, ', ' order by s.name) as names, min(s.key) as key, min(s.kind) as kind into known
  from checkpointd.sources s where track.source is null or s.name = track.source;
  if known.count = 0 then
    raise exception '%', coalesce('there is no source ' || track.source, 'there is no source yet')
      using errcode = 'invalid_parameter_value', hint = 'A daemon makes its sources known when it starts.';
  elsif known.count > 1 then
    raise exception 'there are several sources: name one of %', known.names using errcode = 'invalid_parameter_value';
  end if;
  -- It becomes a part of a URL's path: the rule is that of the command.
  if not coalesce(track.job ~ case known.kind when 'compatible' then '^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$'
      else '^ftjob-[A-Za-z0-9_-]{1,122}$' end, false) then
    raise exception '% is no id of a fine-tuning job (such as ftjob-abc123)', coalesce(quote_literal(left(track.job, 80)), 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  perform checkpointd.be_brief();
  return (select count(*) > 0 from checkpointd.track_jobs(known.key, array[track.job]));
end $$;
comment on function fine_tuning.track is 'Starts polling a job, of this source or of the only one, as the command track does. True: it was not tracked before.';

create or replace function fine_tuning.untrack(job text, source text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.untrack_jobs(array[checkpointd.tracked_job(job, source)]);
end $$;
comment on function fine_tuning.untrack is 'Stops polling a job, as the command untrack does. What is stored of it stays.';

create or replace function fine_tuning.resync(job text, source text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.resync_jobs(array[checkpointd.tracked_job(job, source)]);
end $$;
comment on function fine_tuning.resync is 'Has a job compared in full at once, and reopened if sealed, as the command resync does.';

revoke execute on function fine_tuning.track(text, text), fine_tuning.untrack(text, text), fine_tuning.resync(text, text) from public;
