-- Rewrite the summaries of jobs.
-- $1 jobs: bigint[], keys
-- $2 bursts: bool[], for each job whether more than three checkpoints came at once
select checkpointd.summarise($1, $2)
