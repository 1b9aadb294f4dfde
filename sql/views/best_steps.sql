-- The step of each curve that the objective of the job prefers, and the checkpoint that is nearest to it.
--
-- By default, the objective is chosen from the metrics of the steps, as summarise() chooses it from those of the
-- checkpoints, and without losses if the checkpoints have rewards. Most steps have no value on all validation data: so
-- it is preferred as soon as two steps have it, because one alone cannot be compared. A subquery whose condition is
-- that no objective was set reads no steps otherwise.
create or replace view checkpointd.curves as
select event_lists.job, objective.metric, objective.direction, given.set_for, best.value, best.step_number,
  best.covered, best.steps
from checkpointd.event_lists
join checkpointd.jobs on jobs.key = event_lists.job
join checkpointd.given_objectives as given on given.job = event_lists.job
left join checkpointd.summaries on summaries.job = event_lists.job
left join lateral (
  select offered.metric, offered.direction
  from (
    select loss.metric, 'minimize' as direction, loss.rank, loss.covered, counted.with_valid_loss as with_valid
    from (
      select count(steps.full_valid_loss) as with_full_valid_loss, count(steps.valid_loss) as with_valid_loss,
        count(steps.train_loss) as with_train_loss
      from checkpointd.steps
      where steps.job = event_lists.job
        and given.metric is null
        and summaries.best_direction is distinct from 'maximize'
        and not checkpointd.is_reinforcement(jobs)
    ) as counted
    cross join lateral (
      values
        (1, 'full_valid_loss', counted.with_full_valid_loss),
        (2, 'valid_loss', counted.with_valid_loss),
        (3, 'train_loss', counted.with_train_loss)
    ) as loss (rank, metric, covered)
    where loss.covered > 0
    union all
    select named.metric, 'maximize', reward.rank, named.covered,
      max(named.covered) filter (where reward.rank = 2) over ()
    from (
      select extra.metric, count(*) as covered
      from checkpointd.steps
      cross join lateral jsonb_object_keys(steps.extra_metrics) as extra (metric)
      where steps.job = event_lists.job
        and given.metric is null
      group by extra.metric
      offset 0
    ) as named
    cross join lateral (select checkpointd.reward_rank(named.metric) as rank) as reward
    where reward.rank is not null
  ) as offered
  order by offered.direction = 'minimize', offered.rank = 1 and offered.covered < least(offered.with_valid, 2),
    offered.rank, offered.metric is distinct from summaries.best_rule, offered.covered desc,
    offered.metric !~* '(^|[^a-z])(mean|avg)([^a-z]|$)', length(offered.metric), offered.metric
  limit 1
) as usual on true
cross join lateral (
  select coalesce(given.metric, usual.metric, summaries.best_rule) as metric,
    coalesce(given.direction, usual.direction, summaries.best_direction) as direction
) as objective
cross join lateral (
  select count(*) as steps, count(judged.value) as covered,
    case objective.direction when 'maximize' then max(judged.value) else min(judged.value) end as value,
    (
      array_agg(
        judged.step_number
        order by case objective.direction when 'maximize' then -judged.value else judged.value end,
          judged.step_number desc
      ) filter (where judged.value is not null)
    )[1] as step_number
  from (
    select steps.step_number,
      checkpointd.metric(
        objective.metric, steps.step_number, steps.train_loss, steps.train_mean_token_accuracy, steps.valid_loss,
        steps.valid_mean_token_accuracy, steps.full_valid_loss, steps.full_valid_mean_token_accuracy,
        steps.extra_metrics
      ) as value
    from checkpointd.steps
    where steps.job = event_lists.job
  ) as judged
) as best
where event_lists.steps > 0;
comment on view checkpointd.curves is
  'One row for each job that has steps: its objective with regard to the steps, and the step that it prefers.';
comment on column checkpointd.curves.job is 'Key of the job.';
comment on column checkpointd.curves.metric is
  'Name of the metric: that of the objective that was set; otherwise the usual one that the steps have; otherwise '
  'that of the best checkpoint. Null if there is none.';
comment on column checkpointd.curves.direction is 'minimize or maximize; null without a metric.';
comment on column checkpointd.curves.set_for is 'job, source or default, as in given_objectives.';
comment on column checkpointd.curves.value is 'Value of the metric at the best step; null if no step has it.';
comment on column checkpointd.curves.step_number is 'The best step, of equal ones the latest; null if there is none.';
comment on column checkpointd.curves.covered is 'Number of steps that have the metric.';
comment on column checkpointd.curves.steps is 'Number of steps.';

-- A lateral subquery with an offset is not merged into the query: so the steps are read job by job, only of the jobs
-- that a query asks for.
create or replace view fine_tuning.best_steps as
select sources.name as source, jobs.id as fine_tuning_job_id, (curve.best).step_number, (curve.best).metric,
  (curve.best).direction, (curve.best).set_for, (curve.best).value, (curve.best).covered, (curve.best).steps,
  checkpointd.unix_time(best_step.created_at, interval '1 day') as created_at, nearest.id as nearest_checkpoint_id,
  nearest.step_number as nearest_step_number, nearest.fine_tuned_model_checkpoint,
  abs(nearest.step_number - (curve.best).step_number) as distance_steps, nearest.deploy_as
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
cross join lateral (
  select (select curves from checkpointd.curves where curves.job = jobs.key) as best
  offset 0
) as curve
left join checkpointd.steps as best_step
  on best_step.job = jobs.key and best_step.step_number = (curve.best).step_number
left join lateral (
  select listed.id, listed.step_number, listed.fine_tuned_model_checkpoint, listed.deploy_as
  from (
    select checkpoints.id, checkpoints.step_number, checkpoints.fine_tuned_model_checkpoint,
      checkpointd.deploy_as(sources.kind, jobs.id, checkpoints) as deploy_as
    from checkpointd.checkpoints
    where checkpoints.job = jobs.key
      and checkpoints.step_number is not null
      and checkpoints.missing_since is null
      and (curve.best).step_number is not null
  ) as listed
  where listed.deploy_as is not null
  order by abs(listed.step_number - (curve.best).step_number), listed.step_number desc, listed.id
  limit 1
) as nearest on true
where (curve.best).steps > 0;

comment on view fine_tuning.best_steps is
  'One row for each job that has steps: the step with the least or the most of a metric, the objective of the job, '
  'and the nearest checkpoint that can be deployed. If two values are equal, the later step is chosen. If no '
  'objective was set, the metric is chosen from those of the steps: it can differ from that of best_checkpoints, '
  'because steps often have metrics that checkpoints lack. Rewards are maximized, or losses minimized if there are '
  'no rewards: on all validation data if at least two steps have the value; otherwise on validation data, and last '
  'on training data. The losses of reinforcement learning do not count.';
comment on column fine_tuning.best_steps.source is 'Source of the job.';
comment on column fine_tuning.best_steps.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.best_steps.step_number is 'Best training step; null if no step has the metric.';
comment on column fine_tuning.best_steps.metric is
  'Metric by which the steps were compared: the objective that was set, otherwise one of the metrics of the steps. If '
  'they have none of the usual ones, it is that of best_checkpoints, and null if there is none, too.';
comment on column fine_tuning.best_steps.direction is 'minimize or maximize; null without a metric.';
comment on column fine_tuning.best_steps.set_for is
  'Where the metric and the direction come from: job (set for this job), source (the setting objective of its source) '
  'or default (chosen from the metrics of the steps).';
comment on column fine_tuning.best_steps.value is 'Value of the metric at the best step.';
comment on column fine_tuning.best_steps.covered is 'Number of steps that have the metric. Only these were compared.';
comment on column fine_tuning.best_steps.steps is 'Number of steps.';
comment on column fine_tuning.best_steps.created_at is
  'Time of the best step, according to the provider; null if that is not known or implausible.';
comment on column fine_tuning.best_steps.nearest_checkpoint_id is
  'Id of the checkpoint nearest to the best step, among those that the provider lists, whose step is known and that '
  'can be deployed; of two at the same distance, the later one. Null if there is none.';
comment on column fine_tuning.best_steps.nearest_step_number is 'Training step of that checkpoint.';
comment on column fine_tuning.best_steps.fine_tuned_model_checkpoint is
  'Name of the model of that checkpoint; null if it is not known. See deploy_as.';
comment on column fine_tuning.best_steps.distance_steps is
  'Number of steps between the best step and that checkpoint.';
comment on column fine_tuning.best_steps.deploy_as is
  'Text with which the provider deploys that checkpoint. See checkpoints.deploy_as.';
