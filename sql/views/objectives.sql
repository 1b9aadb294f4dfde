-- The functions that set objectives: by which metric the best checkpoint of a job is chosen.

create or replace function checkpointd.set_objective(job bigint, metric text, direction text) returns void
language plpgsql as $$
#variable_conflict use_variable
begin
  if (metric is null) <> (direction is null) then
    raise exception 'an objective has a metric and a direction'
      using errcode = 'invalid_parameter_value', hint = 'Give both, or none to return to the default.';
  elsif not coalesce(length(metric) between 1 and 128 and metric !~ '[[:cntrl:]]', true) then
    raise exception 'invalid name of a metric: "%"', left(metric, 80) using errcode = 'invalid_parameter_value';
  elsif not coalesce(direction in ('minimize', 'maximize'), true) then
    raise exception 'invalid direction: "%"', left(direction, 80)
      using errcode = 'invalid_parameter_value', hint = 'It is minimize or maximize.';
  end if;
  perform from checkpointd.polling where polling.job = set_objective.job for no key update;
  insert into checkpointd.objectives (job, metric, direction)
  values (job, metric, direction)
  on conflict on constraint objectives_pkey do update
  set metric = excluded.metric, direction = excluded.direction;
  perform checkpointd.summarise(array[job], array[false]);
  insert into checkpointd.operations (job, operation) values (job, 'objective');
end $$;
comment on function checkpointd.set_objective is
  'Sets the objective of a job. Without a metric and a direction, the job follows its source, or the default. The row '
  'of polling is locked, so that no save of the job has chosen by the former objective after the new one.';

create or replace function checkpointd.follow_objectives(most int, out followed int, out are_left boolean)
language plpgsql as $$
declare
  jobs bigint[];
begin
  with outdated as materialized (
    select summaries.job
    from checkpointd.summaries
    join checkpointd.given_objectives as given on given.job = summaries.job
    where summaries.best_set_for <> given.set_for
      or given.set_for <> 'default'
        and (summaries.best_rule, summaries.best_direction) is distinct from (given.metric, given.direction)
  ),

  locked as (
    select polling.job
    from checkpointd.polling
    join outdated on outdated.job = polling.job
    order by polling.job
    limit most
    for no key update of polling skip locked
  )

  select coalesce(array_agg(locked.job), '{}'), count(*), count(*) < (select count(*) from outdated)
  into jobs, followed, are_left
  from locked;
  perform checkpointd.summarise(jobs, array_fill(false, array[followed]));
end $$;
comment on function checkpointd.follow_objectives is
  'Chooses the best checkpoint again for some of the jobs whose objective was changed since it was chosen. Returns '
  'how many they were, and whether others are left. Jobs that another transaction has locked are left out.';

create or replace function fine_tuning.set_objective(
  job text, metric text default null, direction text default null, source text default null
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform checkpointd.be_brief();
  perform checkpointd.set_objective(checkpointd.named_job(job, source, false), metric, direction);
end $$;
comment on function fine_tuning.set_objective is
  'Sets by which metric the best checkpoint of a job is chosen, and whether to minimize or to maximize it, as the '
  'command objective does. Without a metric and a direction, the job follows its source, or the default.';
revoke execute on function fine_tuning.set_objective(text, text, text, text) from public;
