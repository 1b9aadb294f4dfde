-- Every checkpoint that was ever listed.
create or replace view fine_tuning.checkpoints as
select checkpoints.id, sources.name as source, jobs.id as fine_tuning_job_id, checkpoints.step_number,
  checkpointd.unix_time(checkpoints.created_at, interval '1 day') as created_at,
  checkpoints.fine_tuned_model_checkpoint, checkpoints.step, checkpoints.train_loss,
  checkpoints.train_mean_token_accuracy, checkpoints.valid_loss, checkpoints.valid_mean_token_accuracy,
  checkpoints.full_valid_loss, checkpoints.full_valid_mean_token_accuracy,
  checkpointd.with_point(checkpoints.extra_metrics) as extra_metrics,
  case
    when jobs.fine_tuned_model is not null then checkpoints.fine_tuned_model_checkpoint = jobs.fine_tuned_model
    else checkpoints.fine_tuned_model_checkpoint !~ ':ckpt-step-[0-9]+$'
  end as is_final,
  checkpointd.epoch(
    checkpoints.step_number, summaries.step_distance, summaries.latest_step,
    checkpointd.n_epochs(jobs.hyperparameters), jobs.status
  ) as epoch,
  checkpoints.first_seen_at, checkpoints.last_changed_at, checkpoints.missing_since,
  checkpointd.deploy_as(sources.kind, jobs.id, checkpoints) as deploy_as,
  checkpoints.details ->> 'checkpoint_type' as checkpoint_type, checkpoints.expires_at,
  (checkpoints.details ->> 'size_bytes')::bigint as size_bytes,
  checkpoints.is_expired
from checkpointd.checkpoints
join checkpointd.jobs on jobs.key = checkpoints.job
join checkpointd.sources on sources.key = jobs.source
left join checkpointd.summaries on summaries.job = checkpoints.job;

comment on view fine_tuning.checkpoints is
  'One row for each checkpoint that was ever listed, with the last known value of each metric.';
comment on column fine_tuning.checkpoints.id is
  'The provider''s id, unique within a job. At Together, which has no ids, it is the path of the checkpoint.';
comment on column fine_tuning.checkpoints.source is 'Source of the job.';
comment on column fine_tuning.checkpoints.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.checkpoints.step_number is
  'Training step at which the checkpoint was made; null if the provider does not state it, as Tinker.';
comment on column fine_tuning.checkpoints.created_at is
  'Time when the checkpoint was made, according to the provider; null if that is not known or implausible (before '
  '2015 or in the future). Providers list checkpoints late: see first_seen_at.';
comment on column fine_tuning.checkpoints.fine_tuned_model_checkpoint is
  'Name of the model under which the checkpoint can be used; null if it is not known.';
comment on column fine_tuning.checkpoints.step is
  'Metric: the training step, as the provider repeats it among the metrics.';
comment on column fine_tuning.checkpoints.train_loss is 'Metric; null if never received.';
comment on column fine_tuning.checkpoints.train_mean_token_accuracy is 'Metric; null if never received.';
comment on column fine_tuning.checkpoints.valid_loss is
  'Metric, measured on a sample of the validation file; null if never received.';
comment on column fine_tuning.checkpoints.valid_mean_token_accuracy is
  'Metric, measured on a sample of the validation file; null if never received.';
comment on column fine_tuning.checkpoints.full_valid_loss is
  'Metric, measured on the whole validation file; null if never received.';
comment on column fine_tuning.checkpoints.full_valid_mean_token_accuracy is
  'Metric, measured on the whole validation file; null if never received.';
comment on column fine_tuning.checkpoints.extra_metrics is
  'All other numeric metrics, as an object of numbers by name; null if there are none.';
comment on column fine_tuning.checkpoints.is_final is
  'True if the checkpoint is the result of the job: its model is the fine-tuned model of the job or, as long as that '
  'is unknown, its name does not end with :ckpt-step-N. Null if the name of its model is not known.';
comment on column fine_tuning.checkpoints.epoch is
  'Epoch that ended at this checkpoint, calculated from the n_epochs of the job and the usual distance between its '
  'steps (providers make one checkpoint per epoch); null if either is unknown or they do not fit together.';
comment on column fine_tuning.checkpoints.first_seen_at is 'Time when checkpointd stored the checkpoint.';
comment on column fine_tuning.checkpoints.last_changed_at is 'Time when a value of the checkpoint last changed.';
comment on column fine_tuning.checkpoints.missing_since is
  'Time since when the provider no longer lists the checkpoint (two complete listings in a row lacked it); null if it '
  'lists it.';
comment on column fine_tuning.checkpoints.deploy_as is
  'Text with which the provider deploys the checkpoint: the name of its model, at Nebius the ids of the job and the '
  'checkpoint, at Together the name in its model registry, at Tinker the path; null if it is not known.';
comment on column fine_tuning.checkpoints.checkpoint_type is
  'What the checkpoint is, in the words of the provider, such as an adapter; null if the provider has no types.';
comment on column fine_tuning.checkpoints.expires_at is
  'Time when the provider deletes the checkpoint, as last stated; null if it does not say so, or never does it.';
comment on column fine_tuning.checkpoints.size_bytes is
  'Size of the checkpoint, according to the provider; null if it does not state it.';
comment on column fine_tuning.checkpoints.is_expired is
  'True if the checkpoint is no longer listed (see missing_since), and its time expires_at was over when checkpointd '
  'noticed that. Then changes has a row of kind expired instead of missing.';
