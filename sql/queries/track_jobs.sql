-- Track jobs, anew or again; those already tracked are left alone. $1 source, $2 ids.
select job from checkpointd.track_jobs($1::int, $2::text[]) as t (job)
