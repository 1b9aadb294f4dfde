-- How far the events of each job have been read.
create or replace function checkpointd.events_are_read(
  complete_from timestamptz, given_up boolean, settling_since timestamptz
) returns boolean
language sql immutable
return coalesce(complete_from >= settling_since, false) or coalesce(given_up, false);
comment on function checkpointd.events_are_read is
  'Returns whether a job may be sealed with regard to its events: a pass that began after the job had ended has read '
  'them to their end, or that was given up.';

create or replace view fine_tuning.event_lists as
select sources.name as source, jobs.id as fine_tuning_job_id, event_lists.attempt_at as last_attempt_at,
  event_lists.read_from as last_read_at, coalesce(event_lists.complete_from >= polling.settling_since, false)
    as is_complete,
  event_lists.given_up as is_given_up, event_lists.steps as step_count, event_lists.messages as message_count,
  event_lists.left_out_at, event_lists.failures as consecutive_failures, event_lists.error_class,
  event_lists.last_error,
  (
    select steps.step_number
    from checkpointd.steps
    where steps.job = event_lists.job
    order by steps.step_number
    limit 1
  ) as first_step,
  (
    select steps.step_number
    from checkpointd.steps
    where steps.job = event_lists.job
    order by steps.step_number desc
    limit 1
  ) as last_step
from checkpointd.event_lists
join checkpointd.polling on polling.job = event_lists.job
join checkpointd.jobs on jobs.key = event_lists.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.event_lists is
  'One row for each job whose event list a daemon has claimed: how far it has been read. At Together the list of '
  'metrics counts as the events.';
comment on column fine_tuning.event_lists.source is 'Source of the job.';
comment on column fine_tuning.event_lists.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.event_lists.last_attempt_at is
  'Time when a daemon last claimed the list in order to read it, whatever came of it: if the rate limit permitted no '
  'request, the list was given back unread.';
comment on column fine_tuning.event_lists.last_read_at is
  'Time when the last reading started that got all new events; null if none did.';
comment on column fine_tuning.event_lists.is_complete is
  'True if the whole list was read after the job had ended: steps and events have all that the provider listed then. '
  'The messages of a job at Together are in another list, which is not read.';
comment on column fine_tuning.event_lists.is_given_up is
  'True if the job is sealed without that: the provider has no such list, or it could not be read for a week.';
comment on column fine_tuning.event_lists.step_count is 'Number of rows of the job in steps.';
comment on column fine_tuning.event_lists.message_count is 'Number of rows of the job in events.';
comment on column fine_tuning.event_lists.left_out_at is
  'Time when events were last left out, because too many of the job are stored; null if none were.';
comment on column fine_tuning.event_lists.consecutive_failures is 'Number of readings in a row that failed.';
comment on column fine_tuning.event_lists.error_class is
  'Class of the last failure; null if the last reading did not fail.';
comment on column fine_tuning.event_lists.last_error is
  'Last failure in words; null if the last reading did not fail.';
comment on column fine_tuning.event_lists.first_step is 'Smallest training step of the job in steps.';
comment on column fine_tuning.event_lists.last_step is
  'Largest training step of the job in steps. That row has total_steps, so it says how far the training has come.';
