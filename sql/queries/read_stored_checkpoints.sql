-- Read the stored checkpoints that listings are compared with: those that are not missing, and those that are listed.
-- $1 jobs: bigint[], keys
-- $2 listed_ids: text[], the provider's ids of all listed checkpoints
select job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy,
  valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload,
  missing_since is not null as missing
from checkpointd.checkpoints
where job = any ($1::bigint[])
  and (missing_since is null or id = any ($2::text[]))
