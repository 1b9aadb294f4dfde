-- The checkpoint of each job that its objective prefers.
create or replace view fine_tuning.best_checkpoints as
select sources.name as source, jobs.id as fine_tuning_job_id, checkpoints.id as checkpoint_id, checkpoints.step_number,
  checkpoints.fine_tuned_model_checkpoint, summaries.best_rule as rule,
  checkpointd.metric(
    summaries.best_rule, checkpoints.step, checkpoints.train_loss, checkpoints.train_mean_token_accuracy,
    checkpoints.valid_loss, checkpoints.valid_mean_token_accuracy, checkpoints.full_valid_loss,
    checkpoints.full_valid_mean_token_accuracy, checkpoints.extra_metrics
  ) as value,
  summaries.best_covered as covered, summaries.candidates as checkpoints, checkpoints.missing_since,
  checkpointd.unix_time(checkpoints.created_at, interval '1 day') as created_at, jobs.model, jobs.status,
  summaries.best_direction as direction, summaries.best_set_for as set_for,
  checkpointd.deploy_as(sources.kind, jobs.id, checkpoints) as deploy_as,
  checkpoints.expires_at, checkpoints.is_expired
from checkpointd.summaries
join checkpointd.jobs on jobs.key = summaries.job
join checkpointd.sources on sources.key = jobs.source
left join checkpointd.checkpoints on checkpoints.job = summaries.job and checkpoints.id = summaries.best_id;

comment on view fine_tuning.best_checkpoints is
  'One row for each job that has checkpoints: the checkpoint with the least or the most of a metric, the objective of '
  'the job. Candidates are the checkpoints that the provider still lists, or all if it lists none. If two values are '
  'equal, the later step is chosen. NaN is never chosen. An objective can be set for a job or for a source. Otherwise '
  'rewards are maximized, or losses minimized if there are no rewards: on all validation data if all candidates have '
  'the value, or all but one (the newest may get it late), or at least as many as have one on validation data; '
  'otherwise on validation data, and last on training data. The losses of reinforcement learning do not count.';
comment on column fine_tuning.best_checkpoints.source is 'Source of the job.';
comment on column fine_tuning.best_checkpoints.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.best_checkpoints.checkpoint_id is
  'Id of the best checkpoint; null if no candidate has the metric.';
comment on column fine_tuning.best_checkpoints.step_number is 'Training step of the best checkpoint.';
comment on column fine_tuning.best_checkpoints.fine_tuned_model_checkpoint is
  'Name of the model of the best checkpoint; null if it is not known. See deploy_as.';
comment on column fine_tuning.best_checkpoints.rule is
  'Metric by which the candidates were compared; null if none was set, and no candidate has one of the usual ones.';
comment on column fine_tuning.best_checkpoints.value is 'Value of that metric.';
comment on column fine_tuning.best_checkpoints.covered is
  'Number of candidates that have that metric. Only these were compared.';
comment on column fine_tuning.best_checkpoints.checkpoints is 'Number of candidates.';
comment on column fine_tuning.best_checkpoints.missing_since is
  'Time since when the provider no longer lists the checkpoint; null if it lists it.';
comment on column fine_tuning.best_checkpoints.created_at is
  'Time when the best checkpoint was made, according to the provider; null if that is not known or implausible.';
comment on column fine_tuning.best_checkpoints.model is 'Base model of the job.';
comment on column fine_tuning.best_checkpoints.status is 'Status of the job, in the provider''s vocabulary.';
comment on column fine_tuning.best_checkpoints.direction is
  'minimize or maximize: whether the best checkpoint has the least or the most of the metric; null without a metric.';
comment on column fine_tuning.best_checkpoints.set_for is
  'Where the metric and the direction come from: job (set for this job), source (the setting objective of its source) '
  'or default.';
comment on column fine_tuning.best_checkpoints.deploy_as is
  'Text with which the provider deploys the best checkpoint; null if it is not known. See checkpoints.deploy_as.';
comment on column fine_tuning.best_checkpoints.expires_at is
  'Time when the provider deletes the best checkpoint, as last stated; null if it does not say so, or never does it.';
comment on column fine_tuning.best_checkpoints.is_expired is
  'True if the best checkpoint is no longer listed because it expired. See checkpoints.is_expired.';
