-- The procedure that evaluates findings. It commits itself, for the reason given in saves.sql, which also says in
-- which order rows are locked.
--
-- It looks at few jobs: those with changes or new steps since the last evaluation; those with open findings, a part of
-- them at a time if there are many; and those of which something may be found without a change: their polls keep
-- failing, they stall, or an item cannot be read. For these it reads checkpointd.polling once, as each claim does,
-- because no index has their columns (see claims.sql). With 100,000 jobs that takes a tenth of a second.

create or replace procedure checkpointd.evaluate_findings(
  inout fired bigint[],
  inout resolved bigint[],
  inout is_behind boolean,
  interval_s double precision,
  clear_s double precision,
  most_changes int,
  most_open_jobs int
)
language plpgsql as $$
#variable_conflict use_column
declare
  done checkpointd.finding_cursor;
  now timestamptz := clock_timestamp();
  changed_jobs bigint[];
  open_jobs bigint[];
  other_jobs bigint[];
  last_seq bigint;
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
    limit most_open_jobs
  );

  -- A save may take some seconds from the time that it stores to its commit.
  other_jobs := array(
    select job
    from checkpointd.event_lists
    where steps_at > checkpointd.not_after(done.evaluated_at, now) - interval '15 s'
    union
    select polling.job
    from checkpointd.polling
    where coalesce(polling.settling_since, now) > now - interval '1 day'
      and polling.next_poll_at < 'infinity'
      and not polling.is_gone
      and not is_behind
      and (
        polling.rejected > 0
        or now - coalesce(polling.last_complete_at, polling.failing_since)
          > (2 * polling.gap_s + 60) * interval '1 s'
          and polling.failing_since is not null
        or polling.arrivals > 1
          and polling.settling_since is null
          and polling.waiting_since is null
          and polling.last_complete_at - polling.newest_seen_at
            > (4 * polling.spacing_s + 2 * polling.spread_s + 2 * polling.gap_s + polling.waited_s) * interval '1 s'
      )
      and not exists (
        select
        from checkpointd.findings
        where findings.job = polling.job
          and findings.until is null
          and findings.kind in ('unreadable', 'stale', 'stalled')
      )
  );

  -- A finding is stored with the time since null until it fires: of a job that ended, its last listing is waited for.
  with found as materialized (
    select source, job, kind, checkpoint_id, value, message, fires
    from checkpointd.find_in_jobs(changed_jobs || open_jobs || other_jobs, now)
    union all
    select source, null, kind, null, null, message, fires
    from checkpointd.find_in_sources(now)
  ),

  known as materialized (
    select findings.*, case when findings.kind = 'leaving' then findings.checkpoint_id end as leaving_id
    from checkpointd.findings
    where findings.until is null
      and (findings.job is null or findings.job = any (changed_jobs || open_jobs || other_jobs))
  ),

  compared as materialized (
    select known.id, known.since, known.clear_since, known.message as known_message, found.source, found.job,
      found.kind, found.checkpoint_id, found.value, found.message, found.fires, found.kind is not null as is_met
    from known
    full join found
      on found.source = known.source
      and found.kind = known.kind
      and coalesce(found.job, 0) = coalesce(known.job, 0)
      and coalesce(case when found.kind = 'leaving' then found.checkpoint_id end, '') = coalesce(known.leaving_id, '')
  ),

  inserted as (
    insert into checkpointd.findings (source, job, kind, checkpoint_id, since, value, message)
    select source, job, kind, checkpoint_id, case when fires then now end, value, message
    from compared
    where id is null
      and (fires or kind = 'finished')
    order by source, job, kind
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
    job = case when cardinality(open_jobs) = most_open_jobs then open_jobs[most_open_jobs] else 0 end,
    evaluated_at = now;

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
  'Returns the keys of those that fired and of those that were resolved, and whether changes are left. '
  'A finding is resolved when its condition has not been met for clear_s seconds.';
