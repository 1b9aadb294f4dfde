-- Save job records in one transaction, and return the jobs of those that can be saved; null if the lease was lost.
-- $1 source: int, key
-- $2 lease_token: bigint, from the claim of the job list
-- $3 most_rejects: bigint, how many rejects to store for each job, and for the source
-- $4 record_job: text of bigint[], key
-- $5 record_status: text[], null if it is not given, as for all of these up to metadata
-- $6 record_model: text[]
-- $7 record_fine_tuned_model: text[]
-- $8 record_created_at: text of bigint[], Unix seconds
-- $9 record_finished_at: text of bigint[], Unix seconds
-- $10 record_estimated_finish: text of bigint[], Unix seconds
-- $11 record_trained_tokens: text of bigint[]
-- $12 record_hyperparameters: text[], JSON
-- $13 record_error: text[], JSON
-- $14 record_metadata: text[], JSON
-- $15 record_payload: text[], JSON as received
-- $16 status_job: text of bigint[], key of a job whose status changed
-- $17 status_ended: text of bool[], whether the new status is that of an ended job
-- $18 status_waits: text of bool[], whether it is that of a job that is queued or paused
-- $19 status_old_value: text[], the status before; null if none was known
-- $20 status_new_value: text[], the status now
-- $21 reject_owner: text of bigint[], key of the job; the negative key of the source if the job is not known
-- $22 reject_digest: bytea[], key of the reject
-- $23 reject_reason: text[], why the item cannot be read, or which of its values are odd
-- $24 reject_raw: bytea[], the item's bytes; null if they contain a secret
-- $25 reject_is_stored: text of bool[], whether the item is stored without its odd values
call checkpointd.save_job_records(
  saved => null,
  list_source => $1::int,
  list_lease_token => $2::bigint,
  most_rejects => $3::bigint,
  record_job => $4::text::bigint[],
  record_status => $5::text[],
  record_model => $6::text[],
  record_fine_tuned_model => $7::text[],
  record_created_at => $8::text::bigint[],
  record_finished_at => $9::text::bigint[],
  record_estimated_finish => $10::text::bigint[],
  record_trained_tokens => $11::text::bigint[],
  record_hyperparameters => $12::text[],
  record_error => $13::text[],
  record_metadata => $14::text[],
  record_payload => $15::text[],
  status_job => $16::text::bigint[],
  status_ended => $17::text::bool[],
  status_waits => $18::text::bool[],
  status_old_value => $19::text[],
  status_new_value => $20::text[],
  reject_owner => $21::text::bigint[],
  reject_digest => $22::bytea[],
  reject_reason => $23::text[],
  reject_raw => $24::bytea[],
  reject_is_stored => $25::text::bool[]
)
