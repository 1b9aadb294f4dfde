-- What is stored of jobs whose listing changed: all that is not missing, and all that is listed. $1 jobs, $2 listed ids.
select c.job, c.id, c.step_number, c.created_at, c.fine_tuned_model_checkpoint, c.step, c.train_loss,
  c.train_mean_token_accuracy, c.valid_loss, c.valid_mean_token_accuracy, c.full_valid_loss,
  c.full_valid_mean_token_accuracy, c.extra_metrics, c.payload, c.missing_since is not null as missing
from checkpointd.checkpoints c
where c.job = any ($1::bigint[]) and (c.missing_since is null or c.id = any ($2::text[]))
