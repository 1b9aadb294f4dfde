-- The step of each curve that the objective of the job prefers, and the checkpoint that is nearest to it.
create or replace view fine_tuning.best_steps as
select sources.name as source, jobs.id as fine_tuning_job_id, curve.step_number, objective.metric,
  objective.direction, objective.set_for, curve.value, curve.covered, curve.steps,
  checkpointd.unix_time(best.created_at, interval '1 day') as created_at, nearest.id as nearest_checkpoint_id,
  nearest.step_number as nearest_step_number, nearest.fine_tuned_model_checkpoint,
  abs(nearest.step_number - curve.step_number) as distance_steps
from checkpointd.event_lists
join checkpointd.jobs on jobs.key = event_lists.job
join checkpointd.sources on sources.key = jobs.source
join checkpointd.given_objectives as given on given.job = jobs.key
left join checkpointd.summaries on summaries.job = jobs.key
cross join lateral (
  select coalesce(given.metric, summaries.best_rule) as metric,
    coalesce(given.direction, summaries.best_direction) as direction, given.set_for
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
) as curve
left join checkpointd.steps as best on best.job = event_lists.job and best.step_number = curve.step_number
left join lateral (
  select checkpoints.id, checkpoints.step_number, checkpoints.fine_tuned_model_checkpoint
  from checkpointd.checkpoints
  where checkpoints.job = event_lists.job
    and checkpoints.missing_since is null
    and checkpoints.fine_tuned_model_checkpoint is not null
    and curve.step_number is not null
  order by abs(checkpoints.step_number - curve.step_number), checkpoints.step_number desc, checkpoints.id
  limit 1
) as nearest on true
where event_lists.steps > 0;

comment on view fine_tuning.best_steps is
  'One row for each job that has steps: the step with the least or the most of the metric by which its best '
  'checkpoint is chosen, and the nearest checkpoint that can be deployed. If two values are equal, the later step '
  'is chosen.';
comment on column fine_tuning.best_steps.source is 'Source of the job.';
comment on column fine_tuning.best_steps.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.best_steps.step_number is 'Best training step; null if no step has the metric.';
comment on column fine_tuning.best_steps.metric is
  'Metric by which the steps were compared: that of best_checkpoints. Null if the job has no checkpoints yet and no '
  'objective was set, or if there is none.';
comment on column fine_tuning.best_steps.direction is 'minimize or maximize; null without a metric.';
comment on column fine_tuning.best_steps.set_for is
  'Where the metric and the direction come from: job, source or default. See best_checkpoints.set_for.';
comment on column fine_tuning.best_steps.value is 'Value of the metric at the best step.';
comment on column fine_tuning.best_steps.covered is 'Number of steps that have the metric. Only these were compared.';
comment on column fine_tuning.best_steps.steps is 'Number of steps.';
comment on column fine_tuning.best_steps.created_at is
  'Time of the best step, according to the provider; null if that is not known or implausible.';
comment on column fine_tuning.best_steps.nearest_checkpoint_id is
  'Id of the checkpoint nearest to the best step, among those that the provider lists and whose model is known; of '
  'two at the same distance, the later one. Null if there is none.';
comment on column fine_tuning.best_steps.nearest_step_number is 'Training step of that checkpoint.';
comment on column fine_tuning.best_steps.fine_tuned_model_checkpoint is
  'Name of the model under which that checkpoint can be used.';
comment on column fine_tuning.best_steps.distance_steps is
  'Number of steps between the best step and that checkpoint.';
