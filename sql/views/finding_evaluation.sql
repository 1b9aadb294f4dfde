-- The procedure that evaluates findings. It commits itself, for the reason given in saves.sql, which also says in
-- which order rows are locked.
--
-- It looks at few jobs: those with changes or new steps since the last evaluation; those with open findings; and those
-- of which something may fire without a change: their polls keep failing, they stall, they end by silence, an item
-- cannot be read, or a checkpoint expires soon. For all but the last it reads checkpointd.polling once, as each claim
-- does, because no index has their columns (see claims.sql). With 100,000 jobs that takes a tenth of a second. Of each
-- kind it looks at some, and goes on behind them the next time: so it ends well within the limit of a statement, and
-- locks the feed for a short time, whatever happened.

create or replace procedure checkpointd.evaluate_findings(
  inout fired bigint[],
  inout resolved bigint[],
  inout is_behind boolean,
  interval_s double precision,
  clear_s double precision,
  most_changes int,
  most_jobs int
)
language plpgsql as $$
#variable_conflict use_column
declare
  done checkpointd.finding_cursor;
  now timestamptz := clock_timestamp();
  changed_jobs bigint[];
  open_jobs bigint[];
  step_jobs bigint[];
  polled_jobs bigint[];
  expiring_jobs bigint[];
  evaluated_jobs bigint[];
  last_seq bigint;
  last_steps_at timestamptz;
begin
  fired := '{}';
  resolved := '{}';
  is_behind := false;
  select * into done from checkpointd.finding_cursor for no key update skip locked;
  if not found
    or not checkpointd.is_over(done.evaluated_at + interval_s * interval '1 s', done.evaluated_at, now)
  then
    rollback;
    return;
  end if;

  select coalesce(array_agg(distinct job) filter (where kind not in ('fired', 'resolved')), '{}'),
    coalesce(max(seq), done.seq), count(*) = most_changes
  into changed_jobs, last_seq, is_behind
  from (
    select seq, job, kind
    from checkpointd.changes
    where seq > done.seq
    order by seq
    limit most_changes
  ) as latest;

  open_jobs := array(
    select distinct job
    from checkpointd.findings
    where until is null
      and job > done.job
    order by job
    limit most_jobs
  );

  -- A save may take some seconds from the time that it stores to its commit.
  select coalesce(array_agg(job), '{}'), is_behind or count(*) >= most_jobs,
    case when count(*) >= most_jobs then max(steps_at) else now - interval '15 s' end
  into step_jobs, is_behind, last_steps_at
  from (
    select job, steps_at
    from checkpointd.event_lists
    where steps_at > case when done.steps_at <= now then done.steps_at else now - interval '15 s' end
      and steps_at <= now
    order by steps_at
    fetch first (most_jobs) rows with ties
  ) as earliest;

  -- The conditions are those of the rules: a job of which nothing can fire would be looked at each time.
  polled_jobs := array(
    select polling.job
    from checkpointd.polling
    join checkpointd.jobs on jobs.key = polling.job
    join checkpointd.sources on sources.key = polling.source
    left join checkpointd.event_lists on event_lists.job = polling.job
    where not is_behind
      and polling.job > done.polled_job
      and coalesce(polling.settling_since, now) > now - interval '1 day'
      and polling.next_poll_at < 'infinity'
      and not polling.is_gone
      and (
        polling.rejected > 0
        or polling.failing_since is not null
          and now - coalesce(polling.last_complete_at, polling.failing_since)
            > (2 * polling.gap_s + 60) * interval '1 s'
          and checkpointd.failed_alone(sources, polling, now)
        or polling.arrivals > 1
          and polling.settling_since is null
          and polling.waiting_since is null
          and jobs.status is not null
          and polling.last_complete_at - greatest(polling.newest_seen_at, event_lists.steps_at)
            > (4 * polling.spacing_s + 2 * coalesce(polling.spread_s, 0) + 2 * polling.gap_s + polling.waited_s)
              * interval '1 s'
        or polling.settling_since is not null
          and not checkpointd.is_final(jobs.status)
          and checkpointd.was_seen_running(jobs, polling)
      )
      and not exists (
        select
        from checkpointd.findings
        where findings.job = polling.job
          and findings.until is null
          and findings.kind in ('unreadable', 'stale', 'stalled', 'finished')
      )
    order by polling.job
    limit most_jobs
  );

  -- Each of these fires, so none is looked at again the next time.
  expiring_jobs := array(
    select soon.job
    from checkpointd.find_expiring(now) as soon
    where not is_behind
      and not exists (
        select
        from checkpointd.findings
        where findings.job = soon.job
          and findings.until is null
          and findings.kind = 'leaving'
          and findings.checkpoint_id = soon.checkpoint_id
      )
    order by soon.job
    limit most_jobs
  );
  evaluated_jobs := changed_jobs || open_jobs || step_jobs || polled_jobs || expiring_jobs;

  -- A finding is stored with the time since null until it fires: of a job that ended, its last listing is waited for.
  with found as materialized (
    select source, job, kind, checkpoint_id, null as model, value, message, fires
    from checkpointd.find_in_jobs(evaluated_jobs, now)
    union all
    select source, null, kind, null, model, null, message, fires
    from checkpointd.find_in_sources(now)
  ),

  known as materialized (
    select findings.*, case when findings.kind = 'leaving' then findings.checkpoint_id end as leaving_id
    from checkpointd.findings
    where findings.until is null
      and (findings.job is null or findings.job = any (evaluated_jobs))
  ),

  compared as materialized (
    select known.id, known.since, known.clear_since, known.message as known_message, found.source, found.job,
      found.kind, found.checkpoint_id, found.model, found.value, found.message, found.fires,
      found.kind is not null as is_met
    from known
    full join found
      on found.source = known.source
      and found.kind = known.kind
      and coalesce(found.job, 0) = coalesce(known.job, 0)
      and coalesce(case when found.kind = 'leaving' then found.checkpoint_id end, '') = coalesce(known.leaving_id, '')
      and coalesce(found.model, '') = coalesce(known.model, '')
  ),

  inserted as (
    insert into checkpointd.findings (source, job, kind, checkpoint_id, model, since, value, message)
    select source, job, kind, checkpoint_id, model, case when fires then now end, value, message
    from compared
    where id is null
      and (fires or kind = 'finished')
    order by source, job, kind, model
    returning id, since is not null as fires, false as ends
  ),

  updated as (
    update checkpointd.findings
    set since = coalesce(findings.since, case when compared.fires then now end),
      until = case when next.ends then now end,
      clear_since = next.clear_since,
      checkpoint_id = coalesce(compared.checkpoint_id, findings.checkpoint_id),
      value = case when compared.message <> findings.message then compared.value else findings.value end,
      message = coalesce(compared.message, findings.message)
    from compared
    cross join lateral (
      select case when not compared.is_met then checkpointd.not_after(coalesce(compared.clear_since, now), now) end
          as clear_since,
        not compared.is_met and (
          compared.since is null
          or checkpointd.not_after(coalesce(compared.clear_since, now), now) <= now - clear_s * interval '1 s'
        ) as ends
    ) as next
    where findings.id = compared.id
      and (
        next.ends
        or next.clear_since is distinct from compared.clear_since
        or compared.since is null and compared.fires
        or compared.message <> compared.known_message
      )
    returning findings.id, compared.since is null and findings.since is not null as fires,
      compared.since is not null and findings.until is not null as ends
  ),

  written as (
    select id, fires, ends from inserted
    union all
    select id, fires, ends from updated
  )

  select coalesce(array_agg(id order by id) filter (where fires), '{}'),
    coalesce(array_agg(id order by id) filter (where ends), '{}')
  into fired, resolved
  from written;

  update checkpointd.finding_cursor
  set seq = last_seq,
    job = case when cardinality(open_jobs) = most_jobs then open_jobs[most_jobs] else 0 end,
    polled_job = case
      when is_behind then done.polled_job
      when cardinality(polled_jobs) = most_jobs then polled_jobs[most_jobs]
      else 0
    end,
    steps_at = last_steps_at,
    evaluated_at = now;

  -- If many jobs fail at once, all of them are found at once, some at a time.
  is_behind := is_behind
    or most_jobs in (cardinality(polled_jobs), cardinality(expiring_jobs)) and cardinality(fired) > 0;

  -- The feed, at the end, because it stays locked until the commit.
  if cardinality(fired || resolved) > 0 then
    now := checkpointd.open_feed();
    update checkpointd.findings
    set since = case when id = any (fired) then now else since end,
      until = case when id = any (resolved) then now end
    where id = any (fired || resolved);
    insert into checkpointd.changes (at, job, kind, checkpoint_id, field, old_value, new_value, finding)
    select now, job, case when until is null then 'fired' else 'resolved' end, checkpoint_id, kind,
      case when until is not null then message end, case when until is null then message end, id
    from checkpointd.findings
    where id = any (fired || resolved)
    order by until is null, id;
  end if;
  commit;
end $$;
comment on procedure checkpointd.evaluate_findings is
  'Evaluates findings, unless another session is doing that, or has done it within the interval, and commits. '
  'Returns the keys of those that fired and of those that were resolved, and whether to go on at once. '
  'A finding is resolved when its condition has not been met for clear_s seconds.';
