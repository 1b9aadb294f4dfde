-- The messages of the jobs.
create or replace view fine_tuning.events as
select sources.name as source, jobs.id as fine_tuning_job_id, events.id,
  checkpointd.unix_time(events.created_at, interval '1 day') as created_at, events.level, events.message, events.type,
  events.first_seen_at
from checkpointd.events
join checkpointd.jobs on jobs.key = events.job
join checkpointd.sources on sources.key = jobs.source;

comment on view fine_tuning.events is
  'One row for each message of a job, as first received. Events with the metrics of a training step are in steps. '
  'The messages of jobs at Together are not read.';
comment on column fine_tuning.events.source is 'Source of the job.';
comment on column fine_tuning.events.fine_tuning_job_id is 'The provider''s id of the job.';
comment on column fine_tuning.events.id is 'The provider''s id of the event, unique within a job.';
comment on column fine_tuning.events.created_at is
  'Time of the event, according to the provider; null if that is not known or implausible.';
comment on column fine_tuning.events.level is 'The provider''s word, such as info, warn, warning or error.';
comment on column fine_tuning.events.message is 'Text of the message.';
comment on column fine_tuning.events.type is 'The provider''s word for the kind of event, usually message.';
comment on column fine_tuning.events.first_seen_at is 'Time when checkpointd stored the event.';
