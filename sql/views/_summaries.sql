-- What the checkpoints of a job are as a whole, and which of them is the best one. A save rewrites the summaries of
-- its jobs, so that no view has to go through the checkpoints of all jobs.

create or replace function checkpointd.metric(
  name text, step double precision, train_loss double precision, train_mean_token_accuracy double precision,
  valid_loss double precision, valid_mean_token_accuracy double precision, full_valid_loss double precision,
  full_valid_mean_token_accuracy double precision, extra_metrics jsonb
) returns double precision
language sql immutable
return case name
  when 'step' then step
  when 'train_loss' then train_loss
  when 'train_mean_token_accuracy' then train_mean_token_accuracy
  when 'valid_loss' then valid_loss
  when 'valid_mean_token_accuracy' then valid_mean_token_accuracy
  when 'full_valid_loss' then full_valid_loss
  when 'full_valid_mean_token_accuracy' then full_valid_mean_token_accuracy
  else (extra_metrics ->> name)::double precision
end;
comment on function checkpointd.metric is 'Returns the metric of a checkpoint with this name; null if it has none.';

create or replace function checkpointd.reward_rank(name text) returns int
language sql immutable
return case
  when lower(name) !~ 'reward'
    or lower(name)
      ~ '(^|[^a-z])(std|var|variance|min|max|count|num|loss|chosen|rejected|margins?|accurac(y|ies))([^a-z]|$)'
    then null
  when lower(name) ~ 'full' then 1
  when lower(name) ~ '(^|[^a-z])(val|valid|validation|eval|evaluation|test)([^a-z]|$)' then 2
  else 3
end;
comment on function checkpointd.reward_rank is
  'Returns what a reward was measured on, by the name of the metric: 1 for all validation data, 2 for validation '
  'data, 3 for training data. Returns null for any other metric, among them the spread of a reward, and the rewards '
  'of preference learning (chosen, rejected), which do not say which checkpoint is better.';

create or replace view checkpointd.given_objectives as
select jobs.key as job, coalesce(objectives.metric, sources.objective_metric) as metric,
  case when objectives.metric is null then sources.objective_direction else objectives.direction end as direction,
  case
    when objectives.metric is not null then 'job'
    when sources.objective_metric is not null then 'source'
    else 'default'
  end as set_for
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
left join checkpointd.objectives on objectives.job = jobs.key;
comment on view checkpointd.given_objectives is
  'One row for each job: the objective that was set for it or, if none was, for its source. If neither was, metric is '
  'null, and the default depends on the metrics of the checkpoints: see summarise().';
comment on column checkpointd.given_objectives.job is 'Key of the job.';
comment on column checkpointd.given_objectives.metric is 'Name of the metric; null if no objective was set.';
comment on column checkpointd.given_objectives.direction is 'minimize or maximize; null if no objective was set.';
comment on column checkpointd.given_objectives.set_for is 'job, source or default.';

create or replace function checkpointd.summarise(jobs bigint[], bursts boolean[]) returns void
language sql as $$
with checkpoint as (
  select checkpoints.job, checkpoints.id, checkpoints.step_number,
    checkpoints.missing_since is null
      or every(checkpoints.missing_since is not null) over (partition by checkpoints.job) as is_candidate,
    checkpoints.extra_metrics::text ~* 'reward' as has_reward,
    coalesce(checkpoints.step_number, checkpoints.created_at)
      = max(coalesce(checkpoints.step_number, checkpoints.created_at)) over (partition by checkpoints.job)
      as is_latest,
    checkpoints.step, nullif(checkpoints.train_loss, 'NaN') as train_loss, checkpoints.train_mean_token_accuracy,
    nullif(checkpoints.valid_loss, 'NaN') as valid_loss, checkpoints.valid_mean_token_accuracy,
    nullif(checkpoints.full_valid_loss, 'NaN') as full_valid_loss, checkpoints.full_valid_mean_token_accuracy,
    checkpoints.extra_metrics,
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
    min(id) filter (where is_latest) as latest_id, max(distance) as widest,
    percentile_disc(0.5) within group (order by distance) as median,
    percentile_disc(0.5) within group (order by distance) filter (where not is_latest) as usual,
    coalesce(bool_or(has_reward), false) as has_reward, count(*) filter (where is_candidate) as candidates,
    count(full_valid_loss) filter (where is_candidate) as with_full_valid_loss,
    count(valid_loss) filter (where is_candidate) as with_valid_loss,
    count(train_loss) filter (where is_candidate) as with_train_loss
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

-- The best checkpoint is one of the candidates: those that are listed, or all if none is. The default objective is a
-- reward or a loss that candidates have. Those of rank 1 are measured on all validation data, of 2 on validation data,
-- of 3 on training data. Of several rewards of a rank, the one counts that most candidates have, and a mean before
-- others. The losses of reinforcement learning do not say which checkpoint is best.
reward as (
  select distinct on (checkpoint.job, named.rank) checkpoint.job, named.rank, extra.metric, count(*) as covered
  from checkpoint
  join whole on whole.job = checkpoint.job and whole.has_reward
  cross join lateral jsonb_object_keys(checkpoint.extra_metrics) as extra (metric)
  cross join lateral (select checkpointd.reward_rank(extra.metric) as rank) as named
  where checkpoint.is_candidate
    and named.rank is not null
  group by checkpoint.job, named.rank, extra.metric
  order by checkpoint.job, named.rank, count(*) desc, extra.metric !~* '(^|[^a-z])(mean|avg)([^a-z]|$)',
    length(extra.metric), extra.metric
),

offered as (
  select reward.job, reward.rank, reward.metric, 'maximize' as direction, reward.covered, whole.candidates,
    max(reward.covered) filter (where reward.rank = 2) over (partition by reward.job) as with_valid
  from reward
  join whole on whole.job = reward.job
  union all
  select whole.job, loss.rank, loss.metric, 'minimize', loss.covered, whole.candidates, whole.with_valid_loss
  from whole
  cross join lateral (
    values
      (1, 'full_valid_loss', whole.with_full_valid_loss),
      (2, 'valid_loss', whole.with_valid_loss),
      (3, 'train_loss', whole.with_train_loss)
  ) as loss (rank, metric, covered)
  where loss.covered > 0
    and not (whole.has_reward and exists (select from reward where reward.job = whole.job))
),

-- Values on all validation data are preferred if all candidates have them or, because they come late, all but one, or
-- as many as have values on validation data.
preferred as (
  select distinct on (job) job, metric, direction
  from offered
  order by job, rank = 1 and covered < least(coalesce(with_valid, 0), candidates - 1), rank
),

objective as (
  select given.job, given.set_for, coalesce(given.metric, usual.metric) as metric,
    coalesce(given.direction, usual.direction) as direction
  from checkpointd.given_objectives as given
  join checkpointd.jobs on jobs.key = given.job
  left join preferred as usual
    on usual.job = given.job
    and (usual.direction = 'maximize' or not checkpointd.is_reinforcement(jobs))
  where given.job = any ($1)
),

best as (
  select checkpoint.job, count(chosen.value) as covered,
    (
      array_agg(
        checkpoint.id
        order by case objective.direction when 'maximize' then -chosen.value else chosen.value end,
          checkpoint.step_number desc, checkpoint.id
      ) filter (where chosen.value is not null)
    )[1] as id
  from checkpoint
  join objective on objective.job = checkpoint.job
  cross join lateral (
    select nullif(
      checkpointd.metric(
        objective.metric, checkpoint.step, checkpoint.train_loss, checkpoint.train_mean_token_accuracy,
        checkpoint.valid_loss, checkpoint.valid_mean_token_accuracy, checkpoint.full_valid_loss,
        checkpoint.full_valid_mean_token_accuracy, checkpoint.extra_metrics
      ),
      'NaN'
    ) as value
  ) as chosen
  where checkpoint.is_candidate
  group by checkpoint.job
)

insert into checkpointd.summaries (job, checkpoint_count, latest_step, latest_id, step_distance, is_uneven,
  came_in_a_burst, candidates, best_rule, best_direction, best_set_for, best_covered, best_id)
select whole.job, whole.count, whole.latest_step, whole.latest_id, whole.median, spacing.is_uneven,
  coalesce(before.came_in_a_burst, given.burst) and spacing.starts_late, whole.candidates, objective.metric,
  objective.direction, objective.set_for, best.covered, best.id
from whole
join spacing on spacing.job = whole.job
join unnest(jobs, bursts) as given (job, burst) on given.job = whole.job
join objective on objective.job = whole.job
join best on best.job = whole.job
left join checkpointd.summaries as before on before.job = whole.job
on conflict (job) do update
set checkpoint_count = excluded.checkpoint_count,
  latest_step = excluded.latest_step,
  latest_id = excluded.latest_id,
  step_distance = excluded.step_distance,
  is_uneven = excluded.is_uneven,
  came_in_a_burst = excluded.came_in_a_burst,
  candidates = excluded.candidates,
  best_rule = excluded.best_rule,
  best_direction = excluded.best_direction,
  best_set_for = excluded.best_set_for,
  best_covered = excluded.best_covered,
  best_id = excluded.best_id
$$;
comment on function checkpointd.summarise is
  'Rewrites the summaries of jobs. For each job, bursts is true if more than three new checkpoints came in one poll. '
  'This counts if they were the first ones and did not begin at the first step that was expected: the steps in '
  'between show any other gap.';

-- After an upgrade from an earlier version, write the summaries that do not exist yet. Of the others, rewrite those
-- with a gap, because an earlier version may have suspected it where uneven steps are normal; and those in which the
-- default objective can change the best checkpoint: without a best one so far, of reinforcement learning, or with
-- rewards.
select checkpointd.summarise(array_agg(jobs.key), array_agg(false))
from checkpointd.jobs
left join checkpointd.summaries on summaries.job = jobs.key
where (
    summaries.job is null
    or summaries.is_uneven
    or summaries.came_in_a_burst
    or summaries.best_id is null
    or summaries.best_direction = 'minimize' and (
      checkpointd.is_reinforcement(jobs)
      or exists (
        select
        from checkpointd.checkpoints
        where checkpoints.job = jobs.key
          and checkpoints.extra_metrics::text ~* 'reward'
      )
    )
  )
  and exists (select from checkpointd.checkpoints where checkpoints.job = jobs.key);
