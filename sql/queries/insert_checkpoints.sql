-- Store new checkpoints. No COPY, for whose rows PostgreSQL waits without any timeout: a daemon that froze would hold its jobs as
-- long. $1 jobs, $2 ids, then the columns.
insert into checkpointd.checkpoints (job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss,
  train_mean_token_accuracy, valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics,
  payload)
select u.job, u.id, u.step_number, u.created_at, u.fine_tuned_model_checkpoint, u.step, u.train_loss, u.train_mean_token_accuracy,
  u.valid_loss, u.valid_mean_token_accuracy, u.full_valid_loss, u.full_valid_mean_token_accuracy, u.extra_metrics, u.payload
from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::float8[], $7::float8[], $8::float8[],
  $9::float8[], $10::float8[], $11::float8[], $12::float8[], $13::jsonb[], $14::json[])
  as u (job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy, valid_loss,
    valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload)
