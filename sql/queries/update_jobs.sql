-- Overwrite job records; null never overwrites. $1 jobs, then the columns.
update checkpointd.jobs j
set status = coalesce(u.status, j.status), model = coalesce(u.model, j.model),
  fine_tuned_model = coalesce(u.fine_tuned_model, j.fine_tuned_model), created_at = coalesce(u.created_at, j.created_at),
  finished_at = coalesce(u.finished_at, j.finished_at), estimated_finish = coalesce(u.estimated_finish, j.estimated_finish),
  trained_tokens = coalesce(u.trained_tokens, j.trained_tokens),
  hyperparameters = coalesce(u.hyperparameters::json, j.hyperparameters), error = coalesce(u.error::json, j.error),
  metadata = coalesce(u.metadata::json, j.metadata), payload = u.payload::json, received_at = clock_timestamp()
from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
  $9::text[], $10::text[], $11::text[], $12::text[])
  as u (job, status, model, fine_tuned_model, created_at, finished_at, estimated_finish, trained_tokens, hyperparameters, error, metadata, payload)
where j.key = u.job
