-- Stop polling jobs; their rows stay. A poll under way is still saved. $1 jobs.
with locked as (
  select p.job from checkpointd.polling p where p.job = any ($1::bigint[]) order by p.job for no key update),
stopped as (
  update checkpointd.polling p set next_poll_at = 'infinity', poll_again = false from locked where p.job = locked.job)
update checkpointd.jobs j set untracked_at = clock_timestamp() from locked
where j.key = locked.job and j.untracked_at is null
returning j.key
