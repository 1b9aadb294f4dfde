-- Have jobs compared in full again, at once, and reopen them if sealed. $1 jobs.
select job from checkpointd.resync_jobs($1::bigint[]) as t (job)
