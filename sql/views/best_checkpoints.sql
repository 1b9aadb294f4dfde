-- The checkpoint of each job with the smallest validation loss.
create or replace view fine_tuning.best_checkpoints as
select sources.name as source, jobs.id as fine_tuning_job_id, checkpoints.id as checkpoint_id, checkpoints.step_number,
  checkpoints.fine_tuned_model_checkpoint, summaries.best_rule as rule,
  case summaries.best_rule
    when 'full_valid_loss' then checkpoints.full_valid_loss
    when 'valid_loss' then checkpoints.valid_loss
  end as value,
  summaries.best_covered as covered, summaries.candidates as checkpoints, checkpoints.missing_since
from checkpointd.summaries
join checkpointd.jobs on jobs.key = summaries.job
join checkpointd.sources on sources.key = jobs.source
left join checkpointd.checkpoints on checkpoints.job = summaries.job and checkpoints.id = summaries.best_id;

comment on view fine_tuning.best_checkpoints is
  'One row for each job that has checkpoints: the checkpoint with the smallest validation loss. Candidates are the '
  'checkpoints that the provider still lists, or all if it lists none. They are compared by full_valid_loss if all of '
  'them have it, or all but one (the newest may get it late), or at least as many as have valid_loss; otherwise by '
  'valid_loss. If two values are equal, the later step is chosen. NaN is never chosen.';
comment on column fine_tuning.best_checkpoints.source is 'Source of the job.';
comment on column fine_tuning.best_checkpoints.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.best_checkpoints.checkpoint_id is
  'Id of the best checkpoint; null if no validation loss is known.';
comment on column fine_tuning.best_checkpoints.step_number is 'Training step of the best checkpoint.';
comment on column fine_tuning.best_checkpoints.fine_tuned_model_checkpoint is
  'Name of the model to deploy; null if it is not known.';
comment on column fine_tuning.best_checkpoints.rule is
  'Metric by which the candidates were compared: full_valid_loss or valid_loss; null if neither is known.';
comment on column fine_tuning.best_checkpoints.value is 'Value of that metric.';
comment on column fine_tuning.best_checkpoints.covered is
  'Number of candidates that have that metric. Only these were compared.';
comment on column fine_tuning.best_checkpoints.checkpoints is 'Number of candidates.';
comment on column fine_tuning.best_checkpoints.missing_since is
  'Time since when the provider no longer lists the checkpoint; null if it lists it.';
