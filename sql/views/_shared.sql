-- Functions that several views or queries share.

create or replace function checkpointd.phase(job checkpointd.jobs, polling checkpointd.polling) returns text
language sql stable
return case
  when job.untracked_at is not null then 'untracked'
  when polling.sealed_at is not null then 'sealed'
  when polling.is_gone then 'gone'
  when polling.error_class in ('missing', 'forbidden') then polling.error_class
  when polling.settling_since is not null then 'settling'
  else 'active'
end;
comment on function checkpointd.phase is
  'State of a job: active; settling (ended, but still polled); sealed (ended, and polling has stopped); missing '
  '(unknown to the provider); gone (missing for long, polled daily); forbidden; untracked.';

create or replace function checkpointd.unix_time(seconds bigint, ahead interval) returns timestamptz
language sql stable
return case
  when seconds >= 1420070400 and seconds <= extract(epoch from now() + ahead) then to_timestamp(seconds)
end;
comment on function checkpointd.unix_time is
  'Converts a provider''s time in Unix seconds. Returns null if it is implausible: before 2015, or further in the '
  'future than the interval ahead.';

create or replace function checkpointd.as_jsonb(value json) returns jsonb
language plpgsql immutable strict as $$
begin
  return value::jsonb;
exception when others then
  return null;
end $$;
comment on function checkpointd.as_jsonb is
  'Converts json. Returns null for what jsonb cannot store: the character \u0000, half of a surrogate pair, a number '
  'with more digits than numeric has.';

create or replace function checkpointd.epoch(
  step_number bigint, step_distance double precision, latest_step bigint, n_epochs text, status text
) returns int
language sql immutable
return case
  when n_epochs ~ '^[0-9]{1,6}(\.0+)?$' then case
    when round(latest_step / step_distance) <= n_epochs::numeric
      and round(step_number / step_distance) >= 1
      and (lower(status) is distinct from 'succeeded' or round(latest_step / step_distance) = n_epochs::numeric)
      and abs(step_number / step_distance - round(step_number / step_distance)) <= 0.1
    then round(step_number / step_distance)::int
  end
end;
comment on function checkpointd.epoch is
  'Returns the epoch that ended at a checkpoint, assuming one checkpoint at the end of each epoch. Returns null if '
  'the steps contradict this: if the latest step is after the last epoch, if the job has succeeded and its latest '
  'step is not the end of the last epoch, or if the step is more than a tenth of an epoch away from the end of an '
  'epoch (an epoch is not always a whole number of steps).';

create or replace function checkpointd.spent_until(budget_at timestamptz, request_interval interval, now timestamptz)
returns timestamptz
language sql stable
return greatest(
  case when budget_at <= now + interval '1 hour' + 200 * request_interval then budget_at end,
  now - greatest(interval '1 s', request_interval)
);
comment on function checkpointd.spent_until is
  'Returns the time up to which the requests of a rate limit are used up. This is sources.budget_at, with two '
  'exceptions. A time in the past is at most one second ago, or one request interval if that is longer, so that '
  'unused requests do not add up. A time so far in the future that even a long list cannot be the reason is ignored: '
  'the clock was set back since.';

create or replace function checkpointd.is_reinforcement(job checkpointd.jobs) returns boolean
language sql immutable
return coalesce(
  job.payload::text ~* '"(type|method)"\s*:\s*"[^"]*(reinforce|\m(rl|rft|grpo|ppo|dapo|gspo))'
    or job.payload::text ~* '"(eval_interval|eval_samples|compute_multiplier|reasoning_effort)"\s*:(?!\s*null)',
  false
);
comment on function checkpointd.is_reinforcement is
  'Returns whether the job record shows reinforcement learning, by its method or its hyperparameters. The record is '
  'searched as text: a record with an escaped NUL character cannot be read as JSON.';

create or replace function checkpointd.summarise(jobs bigint[], bursts boolean[]) returns void
language sql as $$
with checkpoint as (
  select checkpoints.job, checkpoints.id, checkpoints.step_number, checkpoints.missing_since is null as is_listed,
    checkpoints.extra_metrics::text ~* 'reward' as has_reward,
    checkpoints.step_number = max(checkpoints.step_number) over (partition by checkpoints.job) as is_latest,
    nullif(checkpoints.full_valid_loss, 'NaN') as full_valid_loss,
    nullif(checkpoints.valid_loss, 'NaN') as valid_loss,
    nullif(
      checkpoints.step_number::float8
        - lag(checkpoints.step_number) over (partition by checkpoints.job order by checkpoints.step_number),
      0
    ) as distance
  from checkpointd.checkpoints
  where checkpoints.job = any (jobs)
),

whole as (
  select job, count(*) as count, min(step_number) as first_step, max(step_number) as latest_step,
    max(distance) as widest, percentile_disc(0.5) within group (order by distance) as median,
    percentile_disc(0.5) within group (order by distance) filter (where not is_latest) as usual,
    count(*) filter (where is_listed) as listed, coalesce(bool_or(has_reward), false) as has_reward
  from checkpoint
  group by job
),

-- A gap shows only where even steps are expected. The last step is often nearer (the end of training, a cancelled
-- job), so its distance does not count as usual. A distance is usual if it occurs twice, also as the distance of the
-- first step from 0. Reinforcement learning, which rewards show, has uneven steps.
alike as (
  select whole.job, count(*) as count
  from whole
  join (
    select job, distance
    from checkpoint
    union all
    select job, first_step
    from whole
  ) as found using (job)
  where found.distance between whole.usual / 1.5 and whole.usual * 1.5
  group by whole.job
),

spacing as (
  select whole.job,
    coalesce(whole.widest > 1.5 * whole.usual and alike.count >= 2 and not whole.has_reward, false) as is_uneven,
    coalesce(whole.first_step > 1.5 * whole.usual and not whole.has_reward, false) as starts_late
  from whole
  left join alike on alike.job = whole.job
),

-- The candidates for the best checkpoint: those that are listed, or all if none is.
candidate as (
  select checkpoint.job, checkpoint.id, checkpoint.step_number, checkpoint.full_valid_loss, checkpoint.valid_loss
  from checkpoint
  join whole on whole.job = checkpoint.job
  where checkpoint.is_listed or whole.listed = 0
),

-- The full validation loss of the newest checkpoint comes late: one candidate may lack it.
rule as (
  select job, count(*) as candidates, count(full_valid_loss) as with_full_valid_loss,
    count(valid_loss) as with_valid_loss,
    case
      when count(full_valid_loss) > 0 and count(full_valid_loss) >= least(count(valid_loss), count(*) - 1)
        then 'full_valid_loss'
      when count(valid_loss) > 0 then 'valid_loss'
    end as metric
  from candidate
  group by job
),

best as (
  select distinct on (candidate.job) candidate.job, candidate.id
  from candidate
  join rule on rule.job = candidate.job
  cross join lateral (
    select case rule.metric
      when 'full_valid_loss' then candidate.full_valid_loss
      when 'valid_loss' then candidate.valid_loss
    end
  ) as chosen (loss)
  where chosen.loss is not null
  order by candidate.job, chosen.loss, candidate.step_number desc, candidate.id
)

insert into checkpointd.summaries (job, checkpoint_count, latest_step, step_distance, is_uneven, came_in_a_burst,
  candidates, best_rule, best_covered, best_id)
select whole.job, whole.count, whole.latest_step, whole.median, spacing.is_uneven,
  coalesce(before.came_in_a_burst, given.burst) and spacing.starts_late, rule.candidates, rule.metric,
  case rule.metric
    when 'full_valid_loss' then rule.with_full_valid_loss
    when 'valid_loss' then rule.with_valid_loss
    else 0
  end,
  best.id
from whole
join spacing on spacing.job = whole.job
join unnest(jobs, bursts) as given (job, burst) on given.job = whole.job
join rule on rule.job = whole.job
left join best on best.job = whole.job
left join checkpointd.summaries as before on before.job = whole.job
on conflict (job) do update
set checkpoint_count = excluded.checkpoint_count,
  latest_step = excluded.latest_step,
  step_distance = excluded.step_distance,
  is_uneven = excluded.is_uneven,
  came_in_a_burst = excluded.came_in_a_burst,
  candidates = excluded.candidates,
  best_rule = excluded.best_rule,
  best_covered = excluded.best_covered,
  best_id = excluded.best_id
$$;
comment on function checkpointd.summarise is
  'Rewrites the summaries of jobs. For each job, bursts is true if more than three new checkpoints came in one poll. '
  'This counts if they were the first ones and did not begin at the first step that was expected: the steps in '
  'between show any other gap.';

-- After an upgrade from a version without summaries, write those that do not exist yet. Of the others, rewrite those
-- with a gap, because an earlier version may have suspected it where uneven steps are normal.
select checkpointd.summarise(array_agg(jobs.key), array_agg(false))
from checkpointd.jobs
left join checkpointd.summaries on summaries.job = jobs.key
where (summaries.job is null or summaries.is_uneven or summaries.came_in_a_burst)
  and exists (select from checkpointd.checkpoints where checkpoints.job = jobs.key);
