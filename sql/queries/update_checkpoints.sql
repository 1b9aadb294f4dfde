-- Overwrite checkpoints whose item differs; null never overwrites. $1 jobs, $2 ids, $3 whether a value changed (or only
-- its bytes), then the columns.
update checkpointd.checkpoints c
set step_number = u.step_number, created_at = u.created_at, fine_tuned_model_checkpoint = u.fine_tuned_model_checkpoint,
  step = coalesce(u.step, c.step), train_loss = coalesce(u.train_loss, c.train_loss),
  train_mean_token_accuracy = coalesce(u.train_mean_token_accuracy, c.train_mean_token_accuracy),
  valid_loss = coalesce(u.valid_loss, c.valid_loss),
  valid_mean_token_accuracy = coalesce(u.valid_mean_token_accuracy, c.valid_mean_token_accuracy),
  full_valid_loss = coalesce(u.full_valid_loss, c.full_valid_loss),
  full_valid_mean_token_accuracy = coalesce(u.full_valid_mean_token_accuracy, c.full_valid_mean_token_accuracy),
  extra_metrics = coalesce(c.extra_metrics || u.extra_metrics::jsonb, u.extra_metrics::jsonb, c.extra_metrics),
  payload = u.payload::json, last_changed_at = case when u.changed then clock_timestamp() else c.last_changed_at end
from unnest($1::bigint[], $2::text[], $3::bool[], $4::bigint[], $5::bigint[], $6::text[], $7::float8[], $8::float8[],
  $9::float8[], $10::float8[], $11::float8[], $12::float8[], $13::float8[], $14::text[], $15::text[])
  as u (job, id, changed, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy,
    valid_loss, valid_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy, extra_metrics, payload)
where c.job = u.job and c.id = u.id
