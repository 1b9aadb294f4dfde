-- Update job records; a null never overwrites a known value.
-- $1 job: bigint[], key
-- $2 status: text[], null if it is not given, as for all columns up to metadata
-- $3 model: text[]
-- $4 fine_tuned_model: text[]
-- $5 created_at: bigint[], Unix seconds
-- $6 finished_at: bigint[], Unix seconds
-- $7 estimated_finish: bigint[], Unix seconds
-- $8 trained_tokens: bigint[]
-- $9 hyperparameters: text[], JSON
-- $10 error: text[], JSON
-- $11 metadata: text[], JSON
-- $12 payload: text[], JSON as received
update checkpointd.jobs
set status = coalesce(listed.status, jobs.status),
  model = coalesce(listed.model, jobs.model),
  fine_tuned_model = coalesce(listed.fine_tuned_model, jobs.fine_tuned_model),
  created_at = coalesce(listed.created_at, jobs.created_at),
  finished_at = coalesce(listed.finished_at, jobs.finished_at),
  estimated_finish = coalesce(listed.estimated_finish, jobs.estimated_finish),
  trained_tokens = coalesce(listed.trained_tokens, jobs.trained_tokens),
  hyperparameters = coalesce(listed.hyperparameters::json, jobs.hyperparameters),
  error = coalesce(listed.error::json, jobs.error),
  metadata = coalesce(listed.metadata::json, jobs.metadata),
  payload = listed.payload::json,
  received_at = clock_timestamp()
from unnest(
  $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
  $9::text[], $10::text[], $11::text[], $12::text[]
) as listed (
  job, status, model, fine_tuned_model, created_at, finished_at, estimated_finish, trained_tokens, hyperparameters,
  error, metadata, payload
)
where jobs.key = listed.job
