-- Count the jobs of these sources, their complete lists, their stored events, and the event lists to read.
-- $1 source: int[], keys
--
-- A job has two lists, of checkpoints and of events. An event list can be read now if its job is tracked and has
-- ended, unless the last reading failed.
select count(*) as jobs,
  count(*) filter (where archive.has_checkpoints) + count(*) filter (where archive.has_events) as complete_lists,
  coalesce(sum(event_lists.steps + event_lists.messages), 0)::bigint as events,
  count(*) filter (
    where jobs.untracked_at is null
      and polling.settling_since is not null
      and not archive.has_events
      and not coalesce(event_lists.failures > 0 or event_lists.given_up or event_lists.left_out_at is not null, false)
  ) as readable_event_lists
from fine_tuning.archive
join checkpointd.sources on sources.name = archive.source
join checkpointd.jobs on jobs.source = sources.key and jobs.id = archive.fine_tuning_job_id
join checkpointd.polling on polling.job = jobs.key
left join checkpointd.event_lists on event_lists.job = jobs.key
where sources.key = any ($1::int[])
