-- The jobs side by side: what each was given, and what came of it.
--
-- A lateral subquery with an offset is not merged into the query: so each document is converted once for all columns
-- that are read from it, and not at all if a query needs none of them. Likewise, the steps of a job are read only for
-- the columns of its curve.
create or replace view fine_tuning.comparison as
select sources.name as source, jobs.id as fine_tuning_job_id, jobs.status, jobs.model, jobs.fine_tuned_model,
  case jsonb_typeof(given.record -> 'method')
    when 'object' then given.record -> 'method' ->> 'type'
    when 'string' then given.record ->> 'method'
  end as method,
  checkpointd.as_number(given.hyperparameters ->> 'n_epochs') as n_epochs,
  checkpointd.as_number(given.hyperparameters ->> 'batch_size') as batch_size,
  checkpointd.as_number(given.hyperparameters ->> 'learning_rate_multiplier') as learning_rate_multiplier,
  checkpointd.as_number(given.hyperparameters ->> 'beta') as beta,
  checkpointd.as_number(given.hyperparameters ->> 'compute_multiplier') as compute_multiplier,
  checkpointd.as_number(given.hyperparameters ->> 'eval_interval') as eval_interval,
  checkpointd.as_number(given.hyperparameters ->> 'eval_samples') as eval_samples,
  given.hyperparameters ->> 'reasoning_effort' as reasoning_effort,
  checkpointd.with_point(given.hyperparameters) as hyperparameters_jsonb,
  given.record ->> 'training_file' as training_file, given.record ->> 'validation_file' as validation_file,
  checkpointd.as_number(given.record ->> 'seed') as seed, jobs.trained_tokens,
  times.created_at, times.finished_at,
  case
    when times.finished_at >= times.created_at then extract(epoch from times.finished_at - times.created_at)::float8
  end as duration_seconds,
  summaries.best_rule as metric, summaries.best_direction as direction, summaries.best_set_for as set_for,
  best.id as best_checkpoint_id, best.step_number as best_step,
  checkpointd.metric(
    summaries.best_rule, best.step, best.train_loss, best.train_mean_token_accuracy, best.valid_loss,
    best.valid_mean_token_accuracy, best.full_valid_loss, best.full_valid_mean_token_accuracy, best.extra_metrics
  ) as best_value,
  summaries.best_covered as covered, summaries.candidates as checkpoints, last.step_number as last_step,
  checkpointd.metric(
    summaries.best_rule, last.step, last.train_loss, last.train_mean_token_accuracy, last.valid_loss,
    last.valid_mean_token_accuracy, last.full_valid_loss, last.full_valid_mean_token_accuracy, last.extra_metrics
  ) as last_value,
  last.train_loss as last_train_loss, last.valid_loss as last_valid_loss, last.full_valid_loss as last_full_valid_loss,
  last.valid_loss - last.train_loss as valid_gap, last.full_valid_loss - last.train_loss as full_valid_gap,
  (curve.best).metric as curve_metric, (curve.best).direction as curve_direction,
  (curve.best).step_number as curve_best_step, (curve.best).value as curve_best_value
from checkpointd.jobs
join checkpointd.sources on sources.key = jobs.source
left join checkpointd.summaries on summaries.job = jobs.key
left join checkpointd.checkpoints as best on best.job = summaries.job and best.id = summaries.best_id
left join checkpointd.checkpoints as last on last.job = summaries.job and last.id = summaries.latest_id
cross join lateral (
  select checkpointd.as_jsonb(jobs.payload) as record, checkpointd.as_jsonb(jobs.hyperparameters) as hyperparameters
  offset 0
) as given
cross join lateral (
  select checkpointd.unix_time(jobs.created_at, interval '1 day') as created_at,
    checkpointd.unix_time(jobs.finished_at, interval '1 day') as finished_at
  offset 0
) as times
cross join lateral (
  select (select curves from checkpointd.curves where curves.job = jobs.key) as best
  offset 0
) as curve;

comment on view fine_tuning.comparison is
  'One row for each job that was ever tracked: what it was given, how long it took, its best and its last checkpoint, '
  'and the best step of its curve.';
comment on column fine_tuning.comparison.source is 'Source of the job.';
comment on column fine_tuning.comparison.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.comparison.status is
  'Status, in the provider''s vocabulary; null if no job record was received yet.';
comment on column fine_tuning.comparison.model is 'Base model.';
comment on column fine_tuning.comparison.fine_tuned_model is
  'Model that resulted from the job; null as long as there is none.';
comment on column fine_tuning.comparison.method is
  'Method, in the provider''s vocabulary, such as supervised, dpo or reinforcement; null if it is not stated.';
comment on column fine_tuning.comparison.n_epochs is
  'Hyperparameter: number of epochs; null if it is not given, or not a number (auto).';
comment on column fine_tuning.comparison.batch_size is
  'Hyperparameter: examples per batch; null if it is not given, or not a number (auto).';
comment on column fine_tuning.comparison.learning_rate_multiplier is
  'Hyperparameter: factor of the usual learning rate; null if it is not given, or not a number (auto).';
comment on column fine_tuning.comparison.beta is
  'Hyperparameter of preference learning; null if it is not given, or not a number (auto).';
comment on column fine_tuning.comparison.compute_multiplier is
  'Hyperparameter of reinforcement learning; null if it is not given, or not a number (auto).';
comment on column fine_tuning.comparison.eval_interval is
  'Hyperparameter of reinforcement learning: steps between evaluations; null if it is not given, or not a number.';
comment on column fine_tuning.comparison.eval_samples is
  'Hyperparameter of reinforcement learning: samples of an evaluation; null if it is not given, or not a number.';
comment on column fine_tuning.comparison.reasoning_effort is
  'Hyperparameter of reinforcement learning, in the provider''s vocabulary; null if it is not given.';
comment on column fine_tuning.comparison.hyperparameters_jsonb is
  'All hyperparameters; null if there are none, or jsonb cannot store them.';
comment on column fine_tuning.comparison.training_file is 'Id of the training file.';
comment on column fine_tuning.comparison.validation_file is 'Id of the validation file; null if there is none.';
comment on column fine_tuning.comparison.seed is 'Seed of the training, according to the provider.';
comment on column fine_tuning.comparison.trained_tokens is 'Number of billable tokens, according to the provider.';
comment on column fine_tuning.comparison.created_at is 'Time when the job was created, according to the provider.';
comment on column fine_tuning.comparison.finished_at is 'Time when the job finished, according to the provider.';
comment on column fine_tuning.comparison.duration_seconds is
  'Seconds from created_at to finished_at, with the time that the job waited; null until it has finished.';
comment on column fine_tuning.comparison.metric is
  'Metric by which the best checkpoint was chosen; null if there is none. See best_checkpoints.rule.';
comment on column fine_tuning.comparison.direction is 'minimize or maximize; null without a metric.';
comment on column fine_tuning.comparison.set_for is
  'Where the metric and the direction come from: job, source or default. See best_checkpoints.set_for.';
comment on column fine_tuning.comparison.best_checkpoint_id is
  'Id of the best checkpoint; null if no candidate has the metric.';
comment on column fine_tuning.comparison.best_step is 'Training step of the best checkpoint.';
comment on column fine_tuning.comparison.best_value is 'Value of the metric at the best checkpoint.';
comment on column fine_tuning.comparison.covered is
  'Number of candidates for the best checkpoint that have the metric.';
comment on column fine_tuning.comparison.checkpoints is 'Number of candidates for the best checkpoint.';
comment on column fine_tuning.comparison.last_step is 'Training step of the last checkpoint.';
comment on column fine_tuning.comparison.last_value is
  'Value of the metric at the last checkpoint; null if it has none.';
comment on column fine_tuning.comparison.last_train_loss is 'train_loss of the last checkpoint; null if it has none.';
comment on column fine_tuning.comparison.last_valid_loss is 'valid_loss of the last checkpoint; null if it has none.';
comment on column fine_tuning.comparison.last_full_valid_loss is
  'full_valid_loss of the last checkpoint; null if it has none.';
comment on column fine_tuning.comparison.valid_gap is
  'last_valid_loss minus last_train_loss: by how much the model is worse on new data than on its training data.';
comment on column fine_tuning.comparison.full_valid_gap is 'last_full_valid_loss minus last_train_loss.';
comment on column fine_tuning.comparison.curve_metric is
  'Metric by which the best step of the curve was chosen, see best_steps.metric: it can be another one than metric, '
  'and is known without checkpoints, too. Null if there is none, or there are no steps.';
comment on column fine_tuning.comparison.curve_direction is 'minimize or maximize; null without curve_metric.';
comment on column fine_tuning.comparison.curve_best_step is
  'Best training step of the curve by curve_metric; null if no step has it. It need not have a checkpoint: see '
  'best_steps.nearest_checkpoint_id.';
comment on column fine_tuning.comparison.curve_best_value is 'Value of curve_metric at that step.';
