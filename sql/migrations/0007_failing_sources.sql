-- A source can be failing, and a job that the provider does not find can still be in its job list.
alter table checkpointd.sources drop constraint sources_state_known;
alter table checkpointd.sources
add constraint sources_state_known check (state in ('ok', 'paused', 'refused', 'failing'));
comment on column checkpointd.sources.state is
  'ok; paused (throttled or out of quota: every daemon waits until resume_at); refused (the source rejected the key '
  'of a daemon; the key of another daemon may be accepted); failing (the source does not answer a daemon as an API '
  'should, whatever the job; another daemon may have a better connection).';
comment on column checkpointd.sources.last_error is
  'Why the source is paused, refused or failing, or was when it last was.';

alter table checkpointd.polling add column listed_at timestamptz;
comment on column checkpointd.polling.listed_at is
  'Time when the job list last showed the job after the provider had not found its checkpoints; null if never.';
comment on column checkpointd.polling.is_gone is
  'True if the provider did not find the job five times in a row, over at least an hour, although the source was read '
  'meanwhile and its job list did not show the job. Such a job is polled daily.';
