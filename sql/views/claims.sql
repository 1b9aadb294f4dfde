-- How a claim finds the jobs of a source that are due.
--
-- No index has the due times: then each save would have to write it, instead of only the page of the row (a HOT
-- update), and would leave a dead entry in it. So a claim reads all rows of checkpointd.polling once. It sorts the due
-- ones, but locks only those that it takes: PostgreSQL would have to sort all of them to lock some in their order.

create or replace function checkpointd.lock_due_jobs(
  source int, slots int, lasting_slots int, claim_order text, lasting_failures int, now timestamptz
) returns table (job bigint, is_lasting boolean, is_lost boolean, lateness double precision)
language plpgsql
-- A plan for any numbers of jobs. With the present ones, the plan would sometimes read the whole table a second time.
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  most bigint := 4 * slots + 64;
  most_lasting int := least(lasting_slots, slots);
  candidates bigint[];
  lasting bigint[] := '{}';
  others bigint[] := '{}';
begin
  while slots > 0 loop
    candidates := array(
      select polling.job
      from checkpointd.polling
      where polling.source = lock_due_jobs.source
        and (polling.failures < lasting_failures or cardinality(lasting) < most_lasting)
        and checkpointd.is_due(polling, now)
      order by
        case when claim_order <> 'overdue'
          then (polling.failures > 0)::int + (polling.failures >= lasting_failures)::int
        end,
        case claim_order
          when 'random' then random()
          when 'recent' then date_part('epoch', polling.last_complete_at)
        end desc nulls last,
        checkpointd.lateness(polling, now) desc
      limit most
    );
    if cardinality(lasting) < most_lasting then
      lasting := array(
        select polling.job
        from unnest(candidates) with ordinality as candidate (job, place)
        join checkpointd.polling on polling.job = candidate.job
        where polling.failures >= lasting_failures
          and checkpointd.is_due(polling, now)
        order by candidate.place
        limit most_lasting
        for no key update of polling skip locked
      );
    end if;
    others := array(
      select polling.job
      from unnest(candidates) with ordinality as candidate (job, place)
      join checkpointd.polling on polling.job = candidate.job
      where polling.failures < lasting_failures
        and checkpointd.is_due(polling, now)
      order by candidate.place
      limit slots
      for no key update of polling skip locked
    );
    exit when cardinality(candidates) < most
      or cardinality(lasting) + cardinality(others) >= slots;
    -- Many of the first ones are locked by others, or fail lastingly.
    most := 8 * most;
  end loop;
  return query
  select polling.job, polling.failures >= lasting_failures,
    checkpointd.is_lost_again(polling.lease_expires_at, polling.lease_was_lost, polling.error_class),
    checkpointd.lateness(polling, now)
  from checkpointd.polling
  where polling.job = any (lasting || others);
end $$;
comment on function checkpointd.lock_due_jobs is
  'Locks and returns due jobs of a source, in the order of claim_due_jobs.sql: up to slots jobs that do not fail '
  'lastingly, and up to lasting_slots that do. Jobs whose rows are locked are left out. lateness is how long a job '
  'has been due, as a multiple of its poll gap.';
