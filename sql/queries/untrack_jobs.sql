-- Stop polling jobs; their rows stay. $1 jobs.
select job from checkpointd.untrack_jobs($1::bigint[]) as t (job)
