-- Update checkpoints of which a value changed; a null never overwrites a known value.
-- $1 job: bigint[], key
-- $2 id: text[], the provider's id of the checkpoint
-- $3 step_number: bigint[]
-- $4 created_at: bigint[], Unix seconds; null if it is not given, as for all further columns up to the metrics
-- $5 fine_tuned_model_checkpoint: text[]
-- $6 step: float8[], metric
-- $7 train_loss: float8[]
-- $8 train_mean_token_accuracy: float8[]
-- $9 valid_loss: float8[]
-- $10 valid_mean_token_accuracy: float8[]
-- $11 full_valid_loss: float8[]
-- $12 full_valid_mean_token_accuracy: float8[]
-- $13 extra_metrics: text[], JSON object of other metrics by name; or null
-- $14 payload: text[], JSON as received
update checkpointd.checkpoints
set step_number = listed.step_number,
  created_at = coalesce(listed.created_at, checkpoints.created_at),
  fine_tuned_model_checkpoint = coalesce(listed.fine_tuned_model_checkpoint, checkpoints.fine_tuned_model_checkpoint),
  step = coalesce(listed.step, checkpoints.step),
  train_loss = coalesce(listed.train_loss, checkpoints.train_loss),
  train_mean_token_accuracy = coalesce(listed.train_mean_token_accuracy, checkpoints.train_mean_token_accuracy),
  valid_loss = coalesce(listed.valid_loss, checkpoints.valid_loss),
  valid_mean_token_accuracy = coalesce(listed.valid_mean_token_accuracy, checkpoints.valid_mean_token_accuracy),
  full_valid_loss = coalesce(listed.full_valid_loss, checkpoints.full_valid_loss),
  full_valid_mean_token_accuracy
    = coalesce(listed.full_valid_mean_token_accuracy, checkpoints.full_valid_mean_token_accuracy),
  extra_metrics = coalesce(
    checkpoints.extra_metrics || listed.extra_metrics::jsonb, listed.extra_metrics::jsonb, checkpoints.extra_metrics
  ),
  payload = listed.payload::json,
  last_changed_at = clock_timestamp()
from unnest(
  $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::float8[], $7::float8[], $8::float8[],
  $9::float8[], $10::float8[], $11::float8[], $12::float8[], $13::text[], $14::text[]
) as listed (
  job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss,
  train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy,
  extra_metrics, payload
)
where checkpoints.job = listed.job
  and checkpoints.id = listed.id
