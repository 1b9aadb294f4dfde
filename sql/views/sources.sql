-- The sources and their states.
create or replace view fine_tuning.sources as
select sources.name, sources.kind, sources.state, sources.state_since as since, sources.resume_at, sources.last_error,
  (select count(*) from checkpointd.jobs where jobs.source = sources.key and jobs.untracked_at is null) as jobs,
  sources.job_list_complete_at, sources.job_list_error
from checkpointd.sources;

comment on view fine_tuning.sources is 'One row for each source: an account at a provider.';
comment on column fine_tuning.sources.name is 'Name of the source in the settings.';
comment on column fine_tuning.sources.kind is 'openai, azure or compatible.';
comment on column fine_tuning.sources.state is
  'ok; paused (throttled or out of quota: every daemon waits until resume_at); refused (the source rejected the key '
  'of a daemon); failing (the source does not answer a daemon as an API should, whatever the job).';
comment on column fine_tuning.sources.since is 'Time of the last change of the state.';
comment on column fine_tuning.sources.resume_at is 'Time when polling goes on; null if there is no pause.';
comment on column fine_tuning.sources.last_error is
  'Why the source is not ok, or was not ok last. It stays after the source is ok again; null if it always was.';
comment on column fine_tuning.sources.jobs is 'Number of tracked jobs.';
comment on column fine_tuning.sources.job_list_complete_at is 'Time when the job list was last read to its end.';
comment on column fine_tuning.sources.job_list_error is 'Why the job list could not be read; null if it could.';
