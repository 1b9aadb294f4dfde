-- Set the objective of a job.
-- $1 job: bigint, key
-- $2 metric: text, null for the default
-- $3 direction: text, minimize or maximize; null for the default
select checkpointd.set_objective($1::bigint, $2::text, $3::text)
