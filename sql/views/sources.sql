-- The sources and their health.
create or replace view fine_tuning.sources as
select s.name, s.kind, s.state, s.state_since as since, s.resume_at, s.last_error,
  (select count(*) from checkpointd.jobs j where j.source = s.key and j.untracked_at is null) as jobs,
  s.job_list_complete_at, s.job_list_error
from checkpointd.sources s;
comment on view fine_tuning.sources is 'One row a source: an account at a provider.';
comment on column fine_tuning.sources.name is 'Its name in the settings.';
comment on column fine_tuning.sources.kind is 'openai, azure or compatible.';
comment on column fine_tuning.sources.state is 'ok; paused (throttled or out of quota: every daemon waits until resume_at); refused (a daemon''s key was refused).';
comment on column fine_tuning.sources.since is 'Since when.';
comment on column fine_tuning.sources.resume_at is 'When polling goes on; null: at once.';
comment on column fine_tuning.sources.last_error is 'Why it is not ok, or was not last time.';
comment on column fine_tuning.sources.jobs is 'How many of its jobs are tracked.';
comment on column fine_tuning.sources.job_list_complete_at is 'When its job list was last read to the end.';
comment on column fine_tuning.sources.job_list_error is 'Why its job list could not be read; null: it could.';
