-- The checkpoint to deploy by validation loss.
create or replace view fine_tuning.best_checkpoints as
select s.name as source, j.id as fine_tuning_job_id, c.id as checkpoint_id, c.step_number,
  c.fine_tuned_model_checkpoint, w.best_rule as rule,
  case w.best_rule when 'full_valid_loss' then c.full_valid_loss when 'valid_loss' then c.valid_loss end as value,
  w.best_covered as covered, w.candidates as checkpoints, c.missing_since
from checkpointd.summaries w
join checkpointd.jobs j on j.key = w.job
join checkpointd.sources s on s.key = j.source
left join checkpointd.checkpoints c on c.job = w.job and c.id = w.best_id;
comment on view fine_tuning.best_checkpoints is 'One row for each job with checkpoints: of those that the provider still lists (of all, where it lists none any more) the one with the smallest validation loss: full_valid_loss, where all of them have it but one at most (the newest, to which it comes late), or as many as have valid_loss; else valid_loss. Of equals the later step. NaN never wins.';
comment on column fine_tuning.best_checkpoints.source is 'The source of the job.';
comment on column fine_tuning.best_checkpoints.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.best_checkpoints.checkpoint_id is 'The best checkpoint; null: no validation loss is known.';
comment on column fine_tuning.best_checkpoints.step_number is 'Its step.';
comment on column fine_tuning.best_checkpoints.fine_tuned_model_checkpoint is 'The model name to deploy.';
comment on column fine_tuning.best_checkpoints.rule is 'The metric it was chosen by: full_valid_loss or valid_loss; null: neither is known.';
comment on column fine_tuning.best_checkpoints.value is 'The value of that metric.';
comment on column fine_tuning.best_checkpoints.covered is 'How many of the checkpoints in question have that metric: only they were compared.';
comment on column fine_tuning.best_checkpoints.checkpoints is 'How many checkpoints were in question.';
comment on column fine_tuning.best_checkpoints.missing_since is 'Since when the provider no longer lists it; null: it does.';
