-- Every checkpoint ever listed.
create or replace view fine_tuning.checkpoints as
select c.id, s.name as source, j.id as fine_tuning_job_id, c.step_number,
  checkpointd.unix_time(c.created_at, interval '1 day') as created_at,
  c.fine_tuned_model_checkpoint, c.step, c.train_loss, c.train_mean_token_accuracy, c.valid_loss,
  c.valid_mean_token_accuracy, c.full_valid_loss, c.full_valid_mean_token_accuracy, c.extra_metrics,
  case when j.fine_tuned_model is not null then c.fine_tuned_model_checkpoint = j.fine_tuned_model
    else c.fine_tuned_model_checkpoint !~ ':ckpt-step-[0-9]+$' end as is_final,
  checkpointd.epoch(c.step_number, w.step_distance, w.latest_step, j.hyperparameters ->> 'n_epochs', j.status) as epoch,
  c.first_seen_at, c.last_changed_at, c.missing_since
from checkpointd.checkpoints c
join checkpointd.jobs j on j.key = c.job
join checkpointd.sources s on s.key = j.source
left join checkpointd.summaries w on w.job = c.job;
comment on view fine_tuning.checkpoints is 'One row a checkpoint, for every one that was ever listed, with the last known value of each metric.';
comment on column fine_tuning.checkpoints.id is 'The provider''s id; unique within a job.';
comment on column fine_tuning.checkpoints.source is 'The source of the job.';
comment on column fine_tuning.checkpoints.fine_tuning_job_id is 'The job.';
comment on column fine_tuning.checkpoints.step_number is 'The training step at which it was made.';
comment on column fine_tuning.checkpoints.created_at is 'When the provider says that it was made; null where that cannot be (before 2015 or in the future). Providers list late: see first_seen_at.';
comment on column fine_tuning.checkpoints.fine_tuned_model_checkpoint is 'The model name under which it can be used.';
comment on column fine_tuning.checkpoints.step is 'Metric: the step, as the provider repeats it.';
comment on column fine_tuning.checkpoints.train_loss is 'Metric; null: never received.';
comment on column fine_tuning.checkpoints.train_mean_token_accuracy is 'Metric; null: never received.';
comment on column fine_tuning.checkpoints.valid_loss is 'Metric, on a sample of the validation file; null: never received.';
comment on column fine_tuning.checkpoints.valid_mean_token_accuracy is 'Metric, on a sample of the validation file; null: never received.';
comment on column fine_tuning.checkpoints.full_valid_loss is 'Metric, on the whole validation file; null: never received.';
comment on column fine_tuning.checkpoints.full_valid_mean_token_accuracy is 'Metric, on the whole validation file; null: never received.';
comment on column fine_tuning.checkpoints.extra_metrics is 'Any other numeric metric, as an object of numbers by name; null: none.';
comment on column fine_tuning.checkpoints.is_final is 'It is the job''s result: its model is the job''s fine-tuned model, or, before that is known, carries no :ckpt-step-N.';
comment on column fine_tuning.checkpoints.epoch is 'The epoch that it ended, by the job''s n_epochs and the usual distance of its steps (providers make a checkpoint an epoch); null where either is unknown or they do not fit.';
comment on column fine_tuning.checkpoints.first_seen_at is 'When checkpointd stored it.';
comment on column fine_tuning.checkpoints.last_changed_at is 'When one of its values last changed.';
comment on column fine_tuning.checkpoints.missing_since is 'Since when the provider no longer lists it (two complete listings in a row lacked it); null: it does.';
