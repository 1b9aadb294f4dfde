-- What is stored of each job, and what is missing of it.
create or replace view fine_tuning.archive as
with parts as materialized (
  select sources.name as source, jobs.id as fine_tuning_job_id, jobs.status, jobs.untracked_at,
    polling.settling_since is not null as has_ended, jobs.payload is not null as has_record,
    -- The formats of these kinds have no job records, or no events.
    sources.kind = 'coreweave' as lacks_records, sources.kind in ('coreweave', 'tinker', 'foundry') as lacks_events,
    polling.complete_from >= polling.settling_since and polling.complete_from <= now()
      or polling.sealed_at is not null as lists_checkpoints,
    polling.rejected > 0 as has_rejects, polling.last_complete_at,
    coalesce(event_lists.complete_from >= polling.settling_since and event_lists.complete_from <= now(), false)
      or coalesce(event_lists.given_up and event_lists.error_class = 'missing', false) as lists_events,
    event_lists.read_from, event_lists.left_out_at, polling.error_class,
    coalesce(polling.last_error, 'they were not listed since the job ended') as checkpoint_problem,
    coalesce(event_lists.last_error, 'they were not read since the job ended') as event_problem,
    sources.job_list_complete_at
  from checkpointd.jobs
  join checkpointd.sources on sources.key = jobs.source
  join checkpointd.polling on polling.job = jobs.key
  left join checkpointd.event_lists on event_lists.job = jobs.key
),

explained as (
  select parts.*,
    concat_ws(
      '; ',
      case when not has_record and not lacks_records then 'no job record was received' end,
      case when not has_ended then 'the job has not ended' end,
      case when has_ended and lists_checkpoints is not true then 'checkpoints: ' || checkpoint_problem end,
      case when has_rejects then 'checkpoints: items cannot be read (see rejects)' end,
      case when has_ended and not lists_events and not lacks_events then 'events: ' || event_problem end,
      case when left_out_at is not null then 'events: too many, so some were left out' end
    ) as problems
  from parts
)

select source, fine_tuning_job_id, problems = '' as is_complete,
  case when problems <> '' then problems || case when untracked_at is not null then '; untracked' else '' end end
    as reason,
  has_record, coalesce(has_ended and lists_checkpoints and not has_rejects, false) as has_checkpoints,
  has_ended and lists_events and left_out_at is null as has_events, last_complete_at as checkpoints_listed_at,
  read_from as events_read_at, job_list_complete_at
from explained;

comment on view fine_tuning.archive is
  'One row for each job that was ever tracked: whether its record, all its checkpoints and all its events that the '
  'provider had are stored, and otherwise what is missing. A job that has not ended is never complete. At Together '
  'the list of metrics counts as the events: the messages of a job are not read.';
comment on column fine_tuning.archive.source is 'Source of the job.';
comment on column fine_tuning.archive.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.archive.is_complete is
  'True if the job has ended, and since then its record was received, and its checkpoints and events were read to the '
  'end of their lists, without an item that cannot be read. CoreWeave has neither records nor events, Tinker and '
  'Foundry have no events. At Together the list of metrics counts as the events: this is true although the messages '
  'are not read.';
comment on column fine_tuning.archive.reason is 'What is missing, and why; null if nothing is.';
comment on column fine_tuning.archive.has_record is 'True if the job list has shown the job.';
comment on column fine_tuning.archive.has_checkpoints is
  'True if a listing that began after the job had ended has read every page and every item of its checkpoints.';
comment on column fine_tuning.archive.has_events is
  'True if a reading that began after the job had ended has read its events to the end of the list, and all are '
  'stored; or if the provider says repeatedly that it has no such list. At Together this is the list of metrics: the '
  'messages of a job are not read.';
comment on column fine_tuning.archive.checkpoints_listed_at is 'Time when a poll last read every page.';
comment on column fine_tuning.archive.events_read_at is
  'Time when the last reading started that got all new events; null if none did.';
comment on column fine_tuning.archive.job_list_complete_at is
  'Time when the job list of the source was last read to its end. A job that is not tracked, because discovery did '
  'not choose it, has no row here.';
