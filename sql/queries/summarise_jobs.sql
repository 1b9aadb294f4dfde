-- Rewrite the summaries of jobs. $1 jobs, $2 whether more than three checkpoints came at once.
select checkpointd.summarise($1, $2)
